"""Scripts that look for a way out (ACCEPTANCE T10 to T14): files, network, the kernel, the request itself."""

import json
import os
import secrets
from typing import Any

import pytest
import requests

from tests.harness.platform import wait_until
from tests.harness.sniffer import Sniffer
from tests.training.conftest import Trainer
from tests.training.host import script_of

SPEAK = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), ("192.0.2.1", 9))
"""
HARMLESS = {"NoNewPrivs": "1", "Seccomp": "2"} | {
    f"Cap{kind}": "0" * 16 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")
}


def findings(trainer: Trainer, script: str, **fields: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as in Asking
    """What a script found, which ended well and made no model."""
    run_id = trainer.asking.submit(script, **fields)
    run = trainer.asking.ended(run_id)
    assert run["reason"] == "NO_MODEL", trainer.asking.printed(run_id)
    return trainer.asking.findings(run_id)


def test_t10_there_is_nothing_to_read_but_its_own(trainer: Trainer) -> None:
    found = findings(trainer, "nosy.py")
    for item in found:
        if "place" in item:
            harmless = {"FileNotFoundError", "PermissionError", "IsADirectoryError", "read b''", "folder []"}
            assert item["outcome"] in harmless, item
    whole = json.dumps(found)
    for secret in trainer.secrets:
        assert secret not in whole
    (own,) = [item for item in found if "others" in item]
    assert [text.split("\0")[:3] for text in own["others"]] == [["python3", "-I", "-c"]], "what it was started by"
    assert own["uid"] > 0
    assert 0 not in [own["gid"], *own["groups"]]
    (status,) = [item["status"] for item in found if "status" in item]
    said = dict(line.split(":\t", 1) for line in status)
    assert {name: said[name].strip() for name in HARMLESS} == HARMLESS
    (environment,) = [item["environment"] for item in found if "environment" in item]
    own_names = ("MLBUFFET_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "LOKY_")
    others = {name for name in environment if not name.startswith(own_names)}
    assert others <= {"PATH", "HOME", "HOSTNAME", "TMPDIR", "LANG", "GPG_KEY", "PIP_CERT", "LC_CTYPE"}


def test_t11_nobody_can_be_reached(trainer: Trainer) -> None:
    """The sniffer hears a container that has a network, and nothing of the script."""
    marker = secrets.token_hex(8)
    node = trainer.node.address
    targets = f"1.1.1.1:53 169.254.169.254:80 {node}:2376 172.17.0.1:2376 172.18.0.1:2376 {trainer.inferrer} "
    targets += "127.0.0.1:2376 127.0.0.11:53 2606:4700:4700::1111:53 ::1:2376 fe80::1:80"
    engine = int((trainer.node.folder / "pid").read_text())
    own = secrets.token_hex(8)
    with Sniffer(engine, (own, marker)) as sniffer:
        trainer.node.docker("run", "--rm", trainer.image, "python3", "-c", SPEAK, own)
        found = findings(trainer, "network.py", parameters={"targets": targets, "marker": marker})
    assert sniffer.seen.words == {own}, "what has a network is heard"
    assert "192.0.2.1" in sniffer.seen.destinations
    assert not {"1.1.1.1", "169.254.169.254"} & sniffer.seen.destinations
    attempts = [item for item in found if "to" in item]
    assert len(attempts) == 2 * len(targets.split()) + 6 + 3
    for item in attempts:
        if item["to"].startswith(("127.", "::1")) and item["kind"] == "SOCK_DGRAM":
            continue  # its own loopback
        assert item["outcome"] in {"ENETUNREACH", "EADDRNOTAVAIL", "ECONNREFUSED", "EPERM", "gaierror", "EINVAL"}, item
    assert [item["interfaces"] for item in found if "interfaces" in item] == [["lo"]]
    assert [item["routes"] for item in found if "routes" in item] == [[]]


def test_t12_a_live_script_has_the_hardened_options(trainer: Trainer) -> None:
    asking = trainer.asking
    run_id = asking.submit("spin.py", timeout_s=30, memory_bytes=64 << 20, cpus=0.5)
    try:
        assert asking.training(run_id)["phase"] == "TRAINING"
        known = script_of(trainer.node, run_id)
        pid = known["State"]["Pid"]
        wait_until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE, 10, "the script in the kernel's idle class")
    finally:
        asking.cancel(run_id)
    host, config = known["HostConfig"], known["Config"]
    assert {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "NetworkMode": "none",
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "Memory": 64 << 20,
        "MemorySwap": 64 << 20,
        "NanoCpus": 500_000_000,
        "CpuShares": 2,
        "CgroupParent": "/",
        "PidsLimit": trainer.pids,
        "OomKillDisable": False,
        "PublishAllPorts": False,
    }.items() <= host.items()
    for empty in ("CapAdd", "Binds", "Devices", "DeviceRequests", "VolumesFrom", "ExtraHosts", "Sysctls", "GroupAdd"):
        assert not host.get(empty), empty
    assert any("no-new-privileges" in option for option in host["SecurityOpt"])
    assert not [option for option in host["SecurityOpt"] if "unconfined" in option]
    assert config["User"] not in {"", "0", "root", "0:0"}
    assert {mount["Type"] for mount in known["Mounts"]} <= {"volume", "tmpfs"}
    assert {mount["Destination"]: mount["RW"] for mount in known["Mounts"]} == {"/work": True, "/env": False}
    assert set(known["NetworkSettings"]["Networks"]) <= {"none"}
    assert asking.ended(run_id)["reason"] == "CANCELLED"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("privileged", "true"),
        ("volumes", '["/:/host"]'),
        ("network_mode", "host"),
        ("devices", '["/dev/vda"]'),
        ("image", "evil:latest"),
        ("entrypoint", "sh"),
        ("env", '{"LD_PRELOAD": "/work/x.so"}'),
        ("user", "0"),
        ("cap_add", "SYS_ADMIN"),
        ("labels", "a\nb"),
    ],
)
def test_t13_a_request_has_no_other_fields(trainer: Trainer, field: str, value: str) -> None:
    extra: dict[str, Any] = {field: value}
    sent = trainer.asking.send("spin.py", **extra)
    assert sent.status_code in {400, 422}, sent.text
    assert field in sent.json()["error"]["message"]


@pytest.mark.parametrize("name", ["a;b", "a%0Ab", "..%2Fx", "%00", "a b", "-v", "x" * 300])
def test_t13_a_model_has_a_name(trainer: Trainer, name: str) -> None:
    assert trainer.asking.send("spin.py", model=name).status_code in {400, 404, 422}


@pytest.mark.parametrize(
    "parameters",
    ['{"LD_PRELOAD\\u0000": 1}', '{"a=b": "c"}', '{"a": [1]}', '{"a": {"b": 1}}', "[1]", "{", '{"a\\n--evil": "x"}'],
)
def test_t13_parameters_are_names_with_plain_values(trainer: Trainer, parameters: str) -> None:
    asking = trainer.asking
    files = [(name, (name, b"x")) for name in ("script", "requirements", "dataset")]
    url = f"{asking.url}/api/v1/train/a.onnx"
    sent = requests.post(url, files=files, data={"parameters": parameters}, headers=dict(asking.headers), timeout=60)
    assert sent.status_code in {400, 422}, sent.text


def test_t13_a_parameter_sets_no_variable_but_its_own(trainer: Trainer) -> None:
    text = b"import json, os, sys; print(json.dumps({'environment': dict(os.environ), 'words': sys.argv[1:]}))"
    run_id = trainer.asking.submit(text, parameters={"LD_PRELOAD": "/work/x.so", "note": "$(id); `id`\n\"'"})
    trainer.asking.ended(run_id)
    (found,) = trainer.asking.findings(run_id)
    assert "LD_PRELOAD" not in found["environment"]
    assert found["environment"]["MLBUFFET_PARAM_LD_PRELOAD"] == "/work/x.so"
    assert "$(id); `id`\n\"'" in found["words"]


def test_t14_the_kernel_gives_no_more(trainer: Trainer) -> None:
    found = findings(trainer, "privileges.py")
    uid = str(65534)
    for item in found:
        if item["what"] == "setuid bit of su":
            assert item["outcome"] == "0o4000", "or the next finding says nothing"
        elif item["what"] == "effective user of su":
            assert item["outcome"] == uid
        else:
            assert item["outcome"] in {"EPERM", "ENOSYS", "EROFS", "ENOENT", "EACCES"}, item
    tried = {item["what"] for item in found}
    wanted = {"unshare", "mount", "ptrace", "bpf", "keyctl", "io_uring_setup", "/proc/sys/kernel/core_pattern"}
    assert wanted <= tried


def test_t14_the_runtimes_version_is_told(trainer: Trainer) -> None:
    """Older ones than 1.2.8 let a container write to its host (CVE-2025-31133 and two others)."""
    parts = json.loads(trainer.node.docker("version", "--format={{json .Server.Components}}"))
    (runc,) = [part["Version"] for part in parts if part["Name"] == "runc"]
    exposed = requests.get(f"http://127.0.0.1:{trainer.port}/metrics", timeout=10).text
    (line,) = [line for line in exposed.splitlines() if line.startswith("trainer_engine_runtime_outdated{")]
    assert f'runc="{runc}"' in line
    numbers = tuple(int(part) for part in runc.partition("+")[0].split("."))
    assert float(line.split()[-1]) == (numbers < (1, 2, 8))
