"""What an engine is asked for, by equality: nothing of it may change by accident (ACCEPTANCE T12)."""

from dataclasses import replace

import pytest

from tests.harness.platform import ROOT
from tests.unit.test_trainer_runs import MOVES, RUN
from trainer import spec
from trainer.runs import Parameter

START = (ROOT / "trainer" / "start.py").read_text(encoding="utf-8")
SANDBOX = spec.Sandbox(
    trainer_id="7f",
    image="python:3.11",
    pids=64,
    work_bytes=1000,
    work_files=10,
    tmp_bytes=2000,
    log_bytes=3000,
    index_url="https://index.test/simple",
    sdists=False,
    has_ca=True,
)
TRAINING = MOVES["train"](MOVES["begin"](RUN))
ID = RUN.run_id
HELD = {
    "NetworkMode": "none",
    "Privileged": False,
    "ReadonlyRootfs": True,
    "CapAdd": [],
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "CpuShares": 2,
    "OomScoreAdj": 1000,
    "OomKillDisable": False,
    "IpcMode": "private",
    "PidMode": "",
    "ShmSize": 67108864,
    "Binds": [],
    "Devices": [],
    "Ulimits": [{"Name": "nofile", "Soft": 4096, "Hard": 4096}, {"Name": "core", "Soft": 0, "Hard": 0}],
    "RestartPolicy": {"Name": "no"},
    "AutoRemove": False,
    "LogConfig": {"Type": "local", "Config": {"max-size": "64m", "max-file": "1", "compress": "false"}},
}


def _mount(source: str, target: str, *, read_only: bool = False) -> dict[str, object]:
    options = {"NoCopy": True}
    return {"Type": "volume", "Source": source, "Target": target, "ReadOnly": read_only, "VolumeOptions": options}


def test_t12_the_scripts_container() -> None:
    assert spec.train_container(SANDBOX, TRAINING) == {
        "Image": "sha256:1",
        "Entrypoint": ["python3"],
        "Cmd": ["-I", "-c", START, "3001", "python3", "train.py", "--alpha", "0.5"],
        "Env": [
            "HOME=/tmp",
            "PYTHONPATH=/env/site",
            "PYTHONUNBUFFERED=1",
            "PYTHONDONTWRITEBYTECODE=1",
            "OMP_NUM_THREADS=1",
            "OPENBLAS_NUM_THREADS=1",
            f"MLBUFFET_RUN_ID={ID}",
            "MLBUFFET_MODEL_NAME=m.onnx",
            "MLBUFFET_MODEL_PATH=/work/m.onnx",
            "MLBUFFET_DATASET=/work/d.csv",
            "MLBUFFET_METRICS_PATH=/work/metrics.jsonl",
            'MLBUFFET_PARAMETERS={"alpha": 0.5}',
            "MLBUFFET_PARAM_ALPHA=0.5",
        ],
        "User": "65534:65534",
        "WorkingDir": "/work",
        "Labels": {"mlbuffet.trainer": "7f", "mlbuffet.run": ID, "mlbuffet.role": "train"},
        "NetworkDisabled": True,
        "Tty": False,
        "OpenStdin": False,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": HELD
        | {
            "Memory": 268435456,
            "MemorySwap": 268435456,
            "NanoCpus": 1000000000,
            "PidsLimit": 64,
            "Tmpfs": {
                "/tmp": "rw,nosuid,nodev,noexec,size=2000,nr_inodes=65536,mode=1777",  # noqa: S108
                "/dev/shm": "rw,nosuid,nodev,noexec,size=67108864,nr_inodes=65536,mode=1777",  # noqa: S108
            },
            "Mounts": [_mount(f"mlbuffet-{ID}-work", "/work"), _mount("env", "/env", read_only=True)],
        },
    }


@pytest.mark.parametrize(("driver", "parent"), [("cgroupfs", "/"), ("systemd", ""), ("none", "")])
def test_where_a_containers_control_group_is(driver: str, parent: str) -> None:
    assert spec.cgroup_parent(driver) == parent


def test_the_keeper_has_the_working_volume_and_nothing_else() -> None:
    keeper = spec.keep_container(SANDBOX, ID, "sha256:1")
    assert keeper["Env"] == []
    assert keeper["NetworkDisabled"] is True
    limits = {"Memory": 536870912, "MemorySwap": 536870912, "NanoCpus": 1000000000, "PidsLimit": 64}
    assert keeper["HostConfig"] == HELD | limits | {"Mounts": [_mount(f"mlbuffet-{ID}-work", "/work")]}


def test_what_installs_has_the_network_and_nothing_of_the_users() -> None:
    made = spec.prepare_container(SANDBOX, ID, "sha256:1", "env")
    host = made["HostConfig"]
    assert host["NetworkMode"] == "bridge"
    assert host["Mounts"] == [_mount("env", "/env")]
    kept = {name: host[name] for name in HELD if name != "NetworkMode"}
    assert kept == {name: HELD[name] for name in kept}
    assert made["Entrypoint"] == ["python3"]
    assert made["Cmd"][:4] == ["-I", "-m", "pip", "install"]
    assert "--only-binary=:all:" in made["Cmd"]
    assert {"PIP_INDEX_URL=https://index.test/simple", "PIP_CERT=/env/index-ca.pem"} <= set(made["Env"])
    allowed = spec.prepare_container(replace(SANDBOX, sdists=True, index_url="", has_ca=False), ID, "sha256:1", "env")
    assert "--only-binary=:all:" not in allowed["Cmd"]
    assert not any(line.startswith(("PIP_INDEX_URL", "PIP_CERT")) for line in allowed["Env"])


def test_the_working_volume_has_a_size_and_a_number_of_files() -> None:
    options = "size=1000,nr_inodes=10,mode=0700,uid=65534,gid=65534,nosuid,nodev"
    assert spec.work_volume(SANDBOX, ID) == {
        "name": f"mlbuffet-{ID}-work",
        "driver": "local",
        "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": options},
        "labels": {"mlbuffet.trainer": "7f", "mlbuffet.run": ID, "mlbuffet.role": "work"},
    }


def test_an_environment_is_named_after_all_that_decides_on_it() -> None:
    names = {
        spec.environment_name(SANDBOX, "sha256:1", b"numpy"),
        spec.environment_name(SANDBOX, "sha256:2", b"numpy"),
        spec.environment_name(SANDBOX, "sha256:1", b"numpy\n"),
        spec.environment_name(replace(SANDBOX, sdists=True), "sha256:1", b"numpy"),
        spec.environment_name(replace(SANDBOX, index_url=""), "sha256:1", b"numpy"),
    }
    assert len(names) == 5
    assert spec.environment_name(SANDBOX, "sha256:1", b"numpy") in names


def test_parameters_are_words_of_their_own() -> None:
    values: dict[str, Parameter] = {"text": "a b; $(c)", "on": True, "n": 3}
    run = replace(TRAINING, wish=replace(RUN.wish, parameters=values))
    made = spec.train_container(SANDBOX, run)
    assert made["Cmd"] == [
        "-I",
        "-c",
        START,
        "3001",
        "python3",
        "train.py",
        "--text",
        "a b; $(c)",
        "--on",
        "true",
        "--n",
        "3",
    ]
    assert {"MLBUFFET_PARAM_TEXT=a b; $(c)", "MLBUFFET_PARAM_ON=true", "MLBUFFET_PARAM_N=3"} <= set(made["Env"])
