"""What a container beside ours can reach, and what ours reach for."""

import contextlib
import json
import subprocess
import sys
from typing import Any

import requests

from mlbuffet.deploying.names import NETWORK, SUBNET
from tests.harness.addresses import asked_with
from tests.harness.platform import wait_until
from tests.harness.sniffer import Seen, Sniffer
from tests.harness.stack import Stack
from tests.harness.swarm import TAG

LIE = "203.0.113.78"
# Each way in that somebody in the same network might try: what it answers, or why it does not.
NEIGHBOUR = """
import json, socket, ssl, sys, urllib.error, urllib.request

def plain(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError as error:
        return type(error).__name__
    return "open"

def tls(host, port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(socket.create_connection((host, port), 3)) as secure:
            secure.sendall(bytes(64))
            return "answered" if secure.recv(1) else "closed"
    except OSError as error:
        return type(error).__name__

def http(method, url, headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code

gateway = sys.argv[1]
print(json.dumps({
    "own": socket.gethostbyname(socket.gethostname()),
    "modelhost": [plain("tasks.modelhost", port) for port in (8003, 8004)],
    "mirror": [plain("tasks.mirror", 8003), tls("tasks.mirror", 8004)],
    "scrapes": [tls(f"tasks.{service}", 9464) for service in ("modelhost", "mirror", "trainer")],
    "trainer": tls("tasks.trainer", 8005),
    "docker": [plain(gateway, 2375), plain(sys.argv[2], 2375), plain(sys.argv[2], 2376), tls(gateway, 2376)],
    "models": http("GET", "http://tasks.inferrer:8002/api/v1/models", {}),
    "metrics": http("GET", "http://tasks.inferrer:8002/metrics", {}),
    "prometheus": [http("GET", f"http://tasks.metrics:9090/{path}", {}) for path in ("", "metrics", "federate")],
    "delete": http("DELETE", "http://tasks.inferrer:8002/api/v1/models/iris.onnx", {"X-Forwarded-For": sys.argv[3]}),
}))
"""


def test_s15_a_neighbour_in_the_network_is_refused_and_its_word_on_clients_is_not_taken(stack: Stack) -> None:
    first = stack.lab.first
    gateway = first.docker("network", "inspect", "docker_gwbridge", "--format={{(index .IPAM.Config 0).Gateway}}")
    confined = ["run", "--rm", f"--network={NETWORK}", "--entrypoint=python3", f"mlbuffet/inferrer:{TAG}"]
    told = first.docker(*confined, "-c", NEIGHBOUR, gateway, first.address, LIE)
    found: dict[str, Any] = json.loads(told)
    assert found["modelhost"] == ["ConnectionRefusedError"] * 2
    assert found["mirror"][0] == "ConnectionRefusedError"
    assert found["mirror"][1] not in {"answered", "open"}
    assert not {"answered", "open", "ConnectionRefusedError"} & set(found["scrapes"]), "only Prometheus is answered"
    assert found["trainer"] not in {"answered", "open", "ConnectionRefusedError"}
    assert found["docker"][:3] == ["ConnectionRefusedError"] * 3
    assert found["docker"][3] not in {"answered", "open", "ConnectionRefusedError"}, (
        "the trainer's certificate is asked for"
    )
    assert (found["models"], found["metrics"], found["delete"]) == (401, 401, 401)
    assert found["prometheus"] == [401] * 3
    logs = "".join(first.logs(container) for container in first.containers("inferrer"))
    assert LIE not in logs
    records = [json.loads(line) for line in logs.splitlines() if '"audit"' in line]
    assert [record["status"] for record in records if record["client"] == found["own"]] == [401]


def test_the_edge_is_believed_and_takes_no_clients_word(stack: Stack) -> None:
    """A client's own address is in the record, whatever it says of itself; it is the engine's, which forwards it."""
    lie = "203.0.113.77"
    headers = stack.headers | {"X-Forwarded-For": lie, "Forwarded": f"for={lie}", "X-Request-Id": "who-asks"}
    requests.delete(f"{stack.url}/api/v1/models/none.onnx", headers=headers, timeout=10)

    def record() -> dict[str, Any] | None:
        logs = "".join(stack.lab.first.logs(container) for container in stack.lab.first.containers("inferrer"))
        assert lie not in logs
        records = [json.loads(line) for line in logs.splitlines() if "who-asks" in line and '"audit"' in line]
        return records[0] if records else None

    found = wait_until(record, 20, "the record")
    assert found is not None
    edge = stack.lab.first.inspect(*stack.lab.first.containers("edge"))[0]
    assert found["client"] != edge["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]


def test_s09_a_revoked_key_is_refused_by_every_inferrer_as_soon_as_that_is_answered(stack: Stack) -> None:
    url, body = f"{stack.url}/api/v1/keys", {"values": [2, 5, 1, 4]}
    for _ in range(5):
        made = requests.post(url, json={"name": "x", "scopes": ["predict"]}, headers=stack.headers, timeout=10).json()
        own = {"Authorization": f"Bearer {made['key']}"}
        path = f"{stack.url}/api/v1/models/iris.onnx/prediction"
        asked = [requests.post(path, json=body, headers=own, timeout=10).status_code for _ in range(8)]
        assert asked == [200] * 8
        requests.delete(f"{url}/{made['id']}", headers=stack.headers, timeout=10).raise_for_status()
        asked = [requests.post(path, json=body, headers=own, timeout=10).status_code for _ in range(8)]
        assert asked == [401] * 8


WORD = "rebinding-name"
ASKED = ("http://169.254.169.254/", f"http://{WORD}.example/", "gopher://198.51.100.9:70/_x", "s3://bucket/key")
REACH = f"""
import socket
for host in ("169.254.169.254", "{WORD}.example"):
    try:
        socket.create_connection((host, 80), 1)
    except OSError:
        pass
"""


def watched(stack: Stack, act: Any) -> list[Seen]:  # noqa: ANN401 - a function
    """What leaves inferrers and modelhosts while something is done."""
    first = stack.lab.first
    known = first.inspect(*(container for name in ("inferrer", "modelhost") for container in first.containers(name)))
    with contextlib.ExitStack() as stacked:
        sniffers = [stacked.enter_context(Sniffer(container["State"]["Pid"], (WORD,))) for container in known]
        act(known)
    return [sniffer.seen for sniffer in sniffers]


def test_s12_no_packet_leaves_for_an_address_that_somebody_has_sent(stack: Stack) -> None:
    def ask(_: object) -> None:
        for address in ASKED:
            for answer in asked_with(stack.url, stack.headers, address):
                assert answer.status_code < 500, (address, answer.request.url, answer.text)

    def reach(known: list[dict[str, Any]]) -> None:
        for container in known:
            command = ["nsenter", f"--net=/proc/{container['State']['Pid']}/ns/net", sys.executable, "-c", REACH]
            subprocess.run(command, check=True, timeout=60)

    stack.whole()  # so that no name has to be asked of DNS outside
    names = stack.names()
    for seen in watched(stack, ask):
        assert seen.beyond(SUBNET, "127.0.0.0/8") == set()
        assert not seen.words
    assert stack.names() == names
    # Would it be seen?
    assert all("169.254.169.254" in seen.beyond(SUBNET, "127.0.0.0/8") for seen in watched(stack, reach))
