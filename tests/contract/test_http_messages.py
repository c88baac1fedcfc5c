"""Rows H01, H02, H03, H05, H07: what is no HTTP request, or an ambiguous one, is refused once, and nothing follows."""

import random
import string
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import pytest
import requests

from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform, running_platform
from tests.harness.raw_http import Answer, answers, chunked, converse, message

GOOD = b'{"values": [2, 5, 1, 4]}'
IRIS = "/api/v1/models/iris.onnx/prediction"
HOST = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"
_numbers = count()


class Case(NamedTuple):
    """Bytes, and the statuses that may answer them."""

    name: str
    data: bytes
    statuses: tuple[int, ...] = (400,)


def head(*lines: bytes, start: bytes = b"POST %b HTTP/1.1" % IRIS.encode()) -> bytes:
    """A head of these lines, each with its line break, and the empty one."""
    return b"".join((start + b"\r\n", HOST, JSON, *lines, b"\r\n"))


def starting(line: bytes) -> bytes:
    """A request without a body that begins with this line."""
    return line + b"\r\n" + HOST + b"\r\n"


def bad_lines() -> Iterator[Case]:
    """Request lines."""
    lines = {
        "no version": b"GET /", "0.9": b"GET / HTTP/0.9", "1.2": b"GET / HTTP/1.2", "2.0": b"GET / HTTP/2.0",
        "1.10": b"GET / HTTP/1.10", "11": b"GET / HTTP/11", "1.": b"GET / HTTP/1.", "x.y": b"GET / HTTP/x.y",
        "1,1": b"GET / HTTP/1,1", "minus": b"GET / HTTP/-1.1", "lower": b"GET / http/1.1", "ftp": b"GET / FTP/1.1",
        "space behind": b"GET / HTTP/1.1 ", "three words": b"GET /a b HTTP/1.1", "tab": b"GET\t/\tHTTP/1.1",
        "no target": b"GET HTTP/1.1", "relative": b"GET api HTTP/1.1", "query only": b"GET ?x=1 HTTP/1.1",
        "star": b"GET * HTTP/1.1", "options star": b"OPTIONS * HTTP/1.1", "authority": b"GET a.example:80 HTTP/1.1",
        "absolute": b"GET http://127.0.0.1/ HTTP/1.1", "absolute other": b"GET http://evil.example/ HTTP/1.1",
        "absolute user": b"GET http://a@127.0.0.1/ HTTP/1.1", "absolute port 0": b"GET http://127.0.0.1:0/ HTTP/1.1",
        "absolute ipv6": b"GET http://[::1]/ HTTP/1.1", "https": b"GET https://127.0.0.1/ HTTP/1.1",
        "nul": b"GET /\0 HTTP/1.1", "control": b"GET /\x01 HTTP/1.1", "del": b"GET /\x7f HTTP/1.1",
        "high": b"GET /\xff HTTP/1.1", "cr": b"GET /\rx HTTP/1.1", "nul method": b"GE\0T / HTTP/1.1",
        "space before": b" GET / HTTP/1.1", "bracket": b"G[T / HTTP/1.1", "high method": b"GET\xe9 / HTTP/1.1",
        "slash": b"GET/ HTTP/1.1", "colon": b"GET: / HTTP/1.1", "tls": b"\x16\x03\x01\x02\x00\x01", "empty word": b"\0",
        "json": b'{"values": 1}', "header first": b"Host: a",
    }  # fmt: skip
    for name, line in lines.items():
        yield Case(f"line {name}", starting(line))
    yield Case("line ends in lf", b"GET / HTTP/1.1\n" + HOST + b"\r\n")
    yield Case("http2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 501))
    for method in ("FOO", "get", "Get", "GETX", "GE", "M-SEARCHX", "X" * 200, "!#$%&'*+.^_`|~", "DESCRIBE", "PROXY"):
        yield Case(f"method {method[:20]}", starting(f"{method} / HTTP/1.1".encode()), (501,))
    for target in ("127.0.0.1:80", "/", "*", "[::1]:443"):
        yield Case(f"connect {target}", starting(f"CONNECT {target} HTTP/1.1".encode()), (501,))


def bad_fields() -> Iterator[Case]:
    """Header fields."""
    lines = {
        "space in name": b"Foo bar: x\r\n", "space before colon": b"X : x\r\n", "tab before colon": b"X\t: x\r\n",
        "leading space": b" X: x\r\n", "folded": b"X: x\r\n y\r\n", "folded by tab": b"X: x\r\n\ty\r\n",
        "lf": b"X: x\n", "cr": b"X: x\ry\r\n", "cr cr lf": b"X: x\r\r\n", "nul": b"X: \0\r\n", "bell": b"X: \x07\r\n",
        "vertical tab": b"X: \x0b\r\n", "del": b"X: \x7f\r\n", "escape": b"X: \x1b[0m\r\n", "no colon": b"Abc\r\n",
        "no name": b": x\r\n", "paren": b"X(: x\r\n", "high name": b"\xe9: x\r\n", "nul name": b"X\0: x\r\n",
        "comma": b"X,Y: x\r\n", "lf lf": b"X: x\n\n",
    }  # fmt: skip
    for name, line in lines.items():
        yield Case(f"field {name}", head(line, LENGTH) + GOOD)


def bad_lengths() -> Iterator[Case]:
    """How the body is announced: CL.TE, TE.CL, TE.TE and their families."""
    values = ("+24", "-1", "-0", "0x18", "24,24", "24, 24", "2 4", "24x", "1_0", "2.4", "1e1", "", "\x0b24", "²")
    for value in (*values, "9" * 30, '"24"', "24;"):
        yield Case(f"length {value[:10]!a}", head(b"Content-Length: %b\r\n" % value.encode("latin-1")) + GOOD)
    yield Case("length twice", head(LENGTH, LENGTH) + GOOD)
    yield Case("lengths differ", head(LENGTH, b"Content-Length: 0\r\n") + GOOD)
    yield Case("length in another case", head(LENGTH, b"cOnTeNt-LeNgTh: 24\r\n") + GOOD)
    yield Case("cl.te", head(LENGTH, CHUNKED) + chunked(GOOD))
    yield Case("te.cl", head(CHUNKED, LENGTH) + chunked(GOOD))
    yield Case("te.cl 0", head(CHUNKED, b"Content-Length: 0\r\n") + chunked(GOOD))
    codings = (
        "xchunked", "identity", "gzip", "gzip, chunked", "chunked, identity", "chunked, gzip", "chunked, chunked",
        "identity, chunked", "chunked;q=1", '"chunked"', ",chunked", "chunked,", "", "\x0bchunked", "chunked\x00",
        "chunked x", "x chunked", "ch\xfcnked", "chunk", "none",
    )  # fmt: skip
    for coding in codings:
        line = b"Transfer-Encoding: %b\r\n" % coding.encode("latin-1")
        yield Case(f"coding {coding!a}", head(line) + chunked(GOOD))
        yield Case(f"coding {coding!a} and length", head(line, LENGTH) + GOOD)
    for one, two in (("chunked", "chunked"), ("chunked", "identity"), ("identity", "chunked"), ("x", "chunked")):
        both = b"Transfer-Encoding: %b\r\nTransfer-Encoding: %b\r\n" % (one.encode(), two.encode())
        yield Case(f"coding {one} then {two}", head(both) + chunked(GOOD))
    lines = (
        b"Transfer-Encoding : chunked\r\n", b" Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n",
        b"X: x\nTransfer-Encoding: chunked\r\n", b"X: x\rTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\n",
    )  # fmt: skip
    for line in lines:
        yield Case(f"coding line {line!a}", head(line) + chunked(GOOD))
    yield Case("coding in 1.0", head(CHUNKED, start=b"POST %b HTTP/1.0" % IRIS.encode()) + chunked(GOOD))
    yield Case("upgrade with a body", head(b"Connection: upgrade\r\nUpgrade: h2c\r\n", LENGTH) + GOOD)
    yield Case("upgrade with chunks", head(b"Connection: upgrade\r\nUpgrade: h2c\r\n", CHUNKED) + chunked(GOOD))


def bad_chunks() -> Iterator[Case]:
    """Chunked bodies."""
    size = b"%x" % len(GOOD)
    bodies = {
        "minus": b"-1\r\n" + GOOD + b"\r\n", "plus": b"+" + size + b"\r\n" + GOOD + b"\r\n",
        "prefix": b"0x" + size + b"\r\n" + GOOD + b"\r\n", "underscore": b"1_8\r\n" + GOOD + b"\r\n",
        "no size": b"\r\n" + GOOD + b"\r\n", "space": b" " + size + b"\r\n" + GOOD + b"\r\n",
        "space behind": size + b" \r\n" + GOOD + b"\r\n", "tab": size + b"\t\r\n" + GOOD + b"\r\n",
        "not hex": b"xyz\r\n" + GOOD + b"\r\n", "overflow": b"f" * 17 + b"\r\n" + GOOD,
        "lf behind size": size + b"\n" + GOOD + b"\r\n", "cr behind size": size + b"\r" + GOOD + b"\r\n",
        "lf behind data": size + b"\r\n" + GOOD + b"\n", "nothing behind data": size + b"\r\n" + GOOD,
        "too short": b"%x" % (len(GOOD) - 2) + b"\r\n" + GOOD + b"\r\n",
        "extension with cr": size + b";a\rb\r\n" + GOOD + b"\r\n", "with lf": size + b";a\nb\r\n" + GOOD + b"\r\n",
        "with nul": size + b";a\0\r\n" + GOOD + b"\r\n", "open quote": size + b';a="b\r\n' + GOOD + b"\r\n",
        "extension lf": size + b";\n" + GOOD + b"\r\n",
    }  # fmt: skip
    for name, body in bodies.items():
        yield Case(f"chunk {name}", head(CHUNKED) + body + b"0\r\n\r\n")
    names = (
        "Content-Length: 5", "Transfer-Encoding: chunked", "Host: evil.example", "Authorization: x",
                 "Content-Type: image/png", "X-Request-Timeout-Ms: 1", "Trailer: x", "Connection: keep-alive",
    )  # fmt: skip
    for name in names:
        yield Case(f"trailer {name}", head(CHUNKED) + chunked(GOOD, trailer=name.encode() + b"\r\n"))
    trailers = {
        "space": b"X y: z\r\n", "lf": b"X: y\n", "folded": b"X: y\r\n z\r\n", "cr": b"X: y\rz\r\n",
                          "no colon": b"xyz\r\n", "request": b"GET / HTTP/1.1\r\n",
    }  # fmt: skip
    for name, trailer in trailers.items():
        yield Case(f"trailer with {name}", head(CHUNKED) + chunked(GOOD, trailer=trailer))
    yield Case("last chunk lf", head(CHUNKED) + size + b"\r\n" + GOOD + b"\r\n0\n\n")
    long = chunked(*[b" "] * 100, extension=b";" + b"x" * 8000)  # more than is read in one piece
    yield Case("more extensions than content", head(CHUNKED) + long)
    yield Case("long trailers", head(CHUNKED) + chunked(GOOD, trailer=b"X: %b\r\n" % (b"x" * 300_000)))


def bad_hosts() -> Iterator[Case]:
    """Row H07: names that are none, and names of others."""
    malformed = (
        "a@b", "a@127.0.0.1", "127.0.0.1@a", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1:-1", "a b",
        "127.0.0.1, 127.0.0.1", "127.0.0.1,evil.example", "127.0.0.1/x", "http://127.0.0.1", "[::1", "::1", "[::1]x",
        "127.0.0.1:80:80", "", "[]", "a..b", ".", "localhost?", "localhost#", "localhost\\x", "\xe9", "<b>", "*",
        "127.0.0.1%00", "localhost:8002:",
    )  # fmt: skip
    for value in malformed:
        yield Case(f"host {value!a}", message("GET", "/", {"Host": value}))
    others = (
        "evil.example", "evil.example:8002", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost",
              "10.0.0.1", "0.0.0.1", "169.254.169.254", "[::]", "[fe80::1]", "2130706433", "0x7f.1", "127.1",
              "LOCALHOST.evil.example", "localhost.",
    )  # fmt: skip
    for value in others:
        yield Case(f"host {value}", message("GET", "/", {"Host": value}), (400,) if value.endswith(".") else (421,))
    yield Case("no host", b"GET / HTTP/1.1\r\n\r\n")
    for one, two in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "evil.example"), ("evil.example", "127.0.0.1")):
        yield Case(f"hosts {one} {two}", message("GET", "/", [("Host", one), ("host", two)]))


def too_large() -> Iterator[Case]:
    """Row H03."""
    yield Case("9 KB line", message("GET", "/" + "x" * 9000), (414,))
    yield Case("9 KB query", message("GET", "/?" + "x" * 9000), (414,))
    yield Case("9 KB header", message("GET", "/", {"X": "x" * 9000}), (431,))
    yield Case("9 KB name", message("GET", "/", {"X" * 9000: "x"}), (431,))
    yield Case("101 headers", message("GET", "/", {f"X-{number}": "x" for number in range(101)}), (431,))
    yield Case("1 MB cookie", message("GET", "/", {"Cookie": "x" * (1 << 20)}), (431,))
    yield Case("1 MB line", message("GET", "/" + "x" * (1 << 20)), (414,))
    yield Case("1 MB in all", message("GET", "/", {f"X-{number}": "x" * 8000 for number in range(130)}), (431,))
    yield Case("1 GB announced", message("POST", IRIS, {"Content-Length": str(1 << 30)}), (413,))


INVALID = [*bad_lines(), *bad_fields(), *bad_lengths(), *bad_chunks(), *bad_hosts(), *too_large()]


def valid() -> Iterator[Case]:
    """Requests that are well formed, if rarely seen; each is a prediction and closes the connection."""
    lines = {
        "plain": b"", "no space": b"X:y\r\n", "tab": b"X:\ty\t\r\n", "empty": b"X:\r\n", "high": b"X: \xe9\xff\r\n",
        "odd name": b"!#$%&'*+-.^_`|~09: x\r\n", "many spaces": b"X:      y     \r\n", "colon": b"X: a:b:c\r\n",
        "twice": b"X: a\r\nX: b\r\n", "underscore": b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\n",
        "upper": b"X-UPPER: Y\r\n", "te": b"TE: trailers\r\n", "quoted": b'X: "a\\"b"\r\n',
        "http2": b"HTTP2-Settings: x\r\n", "upgrade unasked": b"Upgrade: h2c\r\n", "cookie": b"Cookie: a=b; c=d\r\n",
        "keep-alive": b"Keep-Alive: 5\r\n", "8 KB": b"X: %b\r\n" % (b"x" * 8000),
        "via": b"Via: 1.1 x\r\nX-Forwarded-For: 1.2.3.4\r\n", "user": b"From: x\r\n",
        "100 headers": b"".join(b"X-%d: y\r\n" % number for number in range(95)), "range": b"Range: bytes=0-1\r\n",
        "forwarded": b'Forwarded: for="[::1]"\r\n', "script": b"SCRIPT_NAME: /x\r\nPATH-INFO: /y\r\n",
        "proxy": b"Proxy: http://evil.example/\r\n", "method": b"X-HTTP-Method-Override: DELETE\r\n",
        "original": b"X-Original-URL: /x\r\nX-Rewrite-URL: /y\r\n", "own origin": b"Origin: http://127.0.0.1\r\n",
        "same site": b"Sec-Fetch-Site: same-origin\r\n", "the user": b"Sec-Fetch-Site: none\r\n",
    }  # fmt: skip
    for name, line in lines.items():
        yield Case(f"field {name}", head(line, LENGTH, CLOSE) + GOOD)
    for value in (b"24 ", b"  24", b"024", b"00000000024"):
        yield Case(f"length {value!a}", head(b"Content-Length: %b\r\n" % value, CLOSE) + GOOD)
    size, upper = b"%x" % len(GOOD), b"%X" % len(GOOD)
    ones = [GOOD[at : at + 1] for at in range(len(GOOD))]
    bodies = {
        "one": chunked(GOOD), "of one byte": chunked(*ones), "extension": chunked(GOOD, extension=b";a=b"),
        "extensions": chunked(GOOD, extension=b";a;b=c;d=e"), "quoted": chunked(GOOD, extension=b';a="b c"'),
        "zeros": b"0000" + size + b"\r\n" + GOOD + b"\r\n0000\r\n\r\n",
        "upper": upper + b"\r\n" + GOOD + b"\r\n0\r\n\r\n",
        "trailer": chunked(GOOD, trailer=b"X: y\r\n"), "trailers": chunked(GOOD, trailer=b"X: y\r\nZ:\r\n"),
        "checksum": chunked(GOOD, trailer=b"X-Checksum: 1\r\n"), "padded": chunked(b" " * 1000, GOOD, b"\n" * 9),
        "last extension": size + b"\r\n" + GOOD + b"\r\n0;last\r\n\r\n",
    }  # fmt: skip
    for name, body in bodies.items():
        yield Case(f"chunks {name}", head(CHUNKED, CLOSE) + body)
    for coding in (b"CHUNKED", b"Chunked", b" chunked ", b"\tchunked"):
        yield Case(f"coding {coding!a}", head(b"transfer-encoding:%b\r\n" % coding, CLOSE) + chunked(GOOD))
    hosts = "127.0.0.1", "127.0.0.1:8002", "127.0.0.1:", "LOCALHOST", "localhost:1", "[::1]:65535", "127.9.8.7"
    for host in hosts:
        yield Case(f"host {host}", message("POST", IRIS, {"Host": host, "Connection": "close"}, GOOD))
    yield Case("empty lines first", b"\r\n\r\n" + head(LENGTH, CLOSE) + GOOD)
    yield Case("1.0", head(LENGTH, start=b"POST %b HTTP/1.0" % IRIS.encode()) + GOOD)
    yield Case("1.0 no host", b"POST %b HTTP/1.0\r\n%b\r\n%b" % (IRIS.encode(), LENGTH, GOOD))
    yield Case("query", head(LENGTH, CLOSE, start=b"POST %b?a=b&c=%%20 HTTP/1.1" % IRIS.encode()) + GOOD)
    yield Case("encoded", head(LENGTH, CLOSE, start=b"POST %b HTTP/1.1" % IRIS.replace("i", "%69").encode()) + GOOD)
    yield Case(
        "no colon in target", head(LENGTH, CLOSE, start=b"POST %b:1/prediction HTTP/1.1" % IRIS[:-11].encode()) + GOOD
    )
    yield Case("expect", head(LENGTH, CLOSE, b"Expect: 100-continue\r\n") + GOOD)
    yield Case("get with a body", head(LENGTH, CLOSE, start=b"GET %b HTTP/1.1" % IRIS.encode()) + GOOD)


VALID = list(valid())


@pytest.fixture(scope="module", params=["lane", "flask"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform with the lane, then one without."""
    options = {
        "modelhosts": 1,
        "workers": 1,
        "environment": {"INFERRER_LANE": "on" if request.param == "lane" else "off"},
    }
    with running_platform(tmp_path_factory.mktemp(request.param), **options) as platform:
        yield platform


def refused(platform: RunningPlatform, case: Case) -> Answer:
    """Send a case with a second request behind it; returns the one answer there may be."""
    canary = f"canary-{next(_numbers)}"
    second = message("GET", f"/{canary}", {"X-Request-Id": canary})
    received = converse(platform.port, case.data + second)
    found = answers(received, "HEAD" if case.data.startswith(b"HEAD") else "POST")
    assert [answer.status in case.statuses for answer in found] == [True], received[:500]
    assert found[0].header("Connection") == "close"
    assert found[0].header("Content-Type") == "application/json"
    assert canary.encode() not in received
    assert not any(record.get("request_id") == canary for record in platform.records())
    return found[0]


def test_the_tables_are_whole() -> None:
    for cases in (INVALID, VALID):
        assert len({case.name for case in cases}) == len(cases)
    assert (len(INVALID) > 200, len(VALID) > 60) == (True, True)


def test_h01_h02_h03_h07_what_is_invalid_is_refused_once_and_nothing_follows(either: RunningPlatform) -> None:
    with unharmed(either):
        for case in INVALID:
            try:
                refused(either, case)
            except (AssertionError, OSError) as error:
                msg = f"{case.name}: {case.data[:200]!a}"
                raise AssertionError(msg) from error


def test_h01_what_is_valid_is_answered_as_ever(either: RunningPlatform) -> None:
    plain = either.predict("iris.onnx", [2, 5, 1, 4]).content
    for case in VALID:
        found = answers(converse(either.port, case.data))
        assert [(answer.status, answer.body) for answer in found] == [(200, plain)], case.name


def test_h01_a_valid_request_before_an_invalid_one_is_answered(either: RunningPlatform) -> None:
    good = message("POST", IRIS, {"Content-Type": "application/json"}, GOOD)
    for case in [case for number, case in enumerate(INVALID) if number % 7 == 0]:
        found = answers(converse(either.port, good + good + case.data))
        assert [answer.status for answer in found[:2]] == [200, 200], case.name
        # Where a body ends right before it, an unknown method cannot be told from a body that is too long.
        assert [answer.status in {*case.statuses, 400} for answer in found[2:]] == [True], case.name


def test_h02_what_hides_in_a_body_is_a_body(either: RunningPlatform) -> None:
    hidden = message("DELETE", "/api/v1/models/iris.onnx", {"X-Request-Id": "hidden"})
    for data in (
        message("POST", IRIS, {"Connection": "close"}, hidden),
        head(CHUNKED, CLOSE) + chunked(hidden),
        head(CHUNKED, CLOSE) + chunked(hidden[:20], hidden[20:]),
        head(b"Connection: upgrade, close\r\nUpgrade: h2c\r\n") + hidden,
    ):
        found = answers(converse(either.port, data))
        assert [answer.status for answer in found] == [400]
    assert "iris.onnx" in either.names()
    assert not any(record.get("request_id") == "hidden" for record in either.records())


def test_h05_methods_that_nobody_takes_are_told_so_and_leave_no_series(either: RunningPlatform) -> None:
    rng = random.Random(5)  # noqa: S311 - chance, not secrecy
    names = {"".join(rng.choices(string.ascii_letters + "-_.!~", k=rng.randint(1, 24))) for _ in range(200)}
    known = ["TRACE", "PROPFIND", "LINK", "QUERY", "PATCH"]
    for method in [*sorted(names - {"GET", *known}), *known]:
        found = exchange_once(either, message(method, IRIS))
        assert found.status in ({405} if method in {"TRACE", "PROPFIND", "LINK", "QUERY", "PATCH"} else {501, 405}), (
            method
        )
        assert (found.header("Allow") is not None) == (found.status == 405)
    lines = requests.get(f"{either.url}/metrics", timeout=5).text.splitlines()
    labels = {
        line.partition('method="')[2].partition('"')[0] for line in lines if line.startswith("http_requests_total{")
    }
    assert labels <= {"", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


def exchange_once(platform: RunningPlatform, data: bytes) -> Answer:
    """The one answer to a request that is the last of its connection."""
    (found,) = answers(converse(platform.port, data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)))
    return found
