"""Which names a server answers to, and to which pages."""

import pytest

from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.request import Request

STRICT = HostPolicy()
NAMED = HostPolicy(("Models.Example",), ("https://console.example:8443",))


def status(policy: HostPolicy, method: bytes = b"GET", version: str = "1.1", **fields: str) -> int:
    """The status that a request with these header fields gets; 200 where it may pass."""
    request = Request()
    request.method, request.http_version = method, version
    request.fields = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in fields.items()}
    fault = policy.fault(request)
    return fault.status if fault else 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8002", "127.0.0.1", "127.1.2.3:1", "[::1]", "[::1]:65535"])
def test_loopback_is_always_meant(host: str) -> None:
    for _ in range(2):  # the second time it is known
        assert status(STRICT, host=host) == 200
    assert status(NAMED, host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1", "0.0.0.1", "[::2]", "localhost.evil.example", "127.1"])
def test_others_are_misdirected(host: str) -> None:
    assert status(STRICT, host=host) == status(NAMED, host=host) == 421


@pytest.mark.parametrize(
    "host", ["", "a@b", "localhost:0", "localhost:65536", "localhost:x", "a b", "a,a", "[::1", "é"]
)
def test_what_is_no_name_is_no_request(host: str) -> None:
    assert status(STRICT, host=host) == 400


def test_only_the_old_version_goes_without_a_name() -> None:
    assert status(STRICT, version="1.0") == 200
    assert status(STRICT) == 400
    assert status(STRICT, version="1.0", host="evil.example") == 421


def test_listed_names_and_origins() -> None:
    assert status(NAMED, host="models.example:443") == 200
    assert status(STRICT, host="models.example") == 421
    assert status(NAMED, host="localhost", origin="https://Console.Example:8443") == 200
    assert status(NAMED, host="localhost", origin="https://console.example") == 403
    assert status(STRICT, host="localhost", origin="https://console.example:8443") == 403


def test_pages_of_the_same_host_may_ask() -> None:
    assert status(STRICT, host="localhost:8002", origin="http://localhost:8002") == 200
    for origin in ("http://localhost", "http://localhost:8003", "null", "", "localhost:8002", "ws://localhost:8002"):
        assert status(STRICT, host="localhost:8002", origin=origin) == 403


def test_a_link_may_be_followed_and_nothing_else_asked_across_sites() -> None:
    for site, allowed in (("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403), ("", 403)):
        assert status(STRICT, host="localhost", sec_fetch_site=site) == allowed
    for method, allowed in ((b"GET", 200), (b"HEAD", 200), (b"POST", 403)):
        fields = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert status(STRICT, method, "1.1", host="localhost", **fields) == allowed
    assert status(STRICT, b"POST", host="localhost", sec_fetch_site="same-origin") == 200


def test_what_is_remembered_is_bounded() -> None:
    policy = HostPolicy()
    for port in range(1, 2000):
        assert status(policy, host=f"localhost:{port}") == 200
    assert len(policy._known) <= 256


@pytest.mark.parametrize(
    ("names", "origins"),
    [(["http://a"], []), (["a:80"], []), (["a b"], []), ([""], []), ([], ["a"]), ([], ["http://a/"]), ([], ["null"])],
)
def test_what_cannot_be_listed(names: list[str], origins: list[str]) -> None:
    with pytest.raises(ValueError, match="received"):
        HostPolicy(names, origins)
