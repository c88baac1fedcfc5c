"""The trainer's files, and what goes to an engine and comes back: logs, metrics, archives, records."""

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbuffet.chassis.settings import SettingsError
from mlbuffet.errors import RunNotFoundError
from tests.unit.test_trainer_runs import MOVES, RUN
from trainer.archive import File, folder_of, pack, unpack_file
from trainer.engine import TrainingError
from trainer.environments import Environments
from trainer.output import MOST_METRICS, Output, read_metrics
from trainer.settings import Place, read_trainer_settings
from trainer.store import RunStore
from trainer.survey import Survey, read_survey
from trainer.telemetry import version_of

BOUND = 1000


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    """A log that is written."""
    with contextlib.closing(Output(tmp_path / "log", tmp_path / "metrics", BOUND)) as made:
        yield made


def test_a_log_is_kept_as_it_is_up_to_its_bound(tmp_path: Path, output: Output) -> None:
    strange = bytes(range(256)) + b'\x1b[2J\r\n{"level":"ERROR","event":"forged"}\n'
    output.take(strange)
    output.take(b"x" * BOUND)
    assert output.truncated
    output.take(b"more")
    output.close()
    kept = (tmp_path / "log").read_bytes()
    assert kept.startswith(strange)
    assert kept[BOUND:] == b"\nmlbuffet: the log is cut here, after 1000 bytes\n"
    with contextlib.closing(Output(tmp_path / "log", tmp_path / "metrics", BOUND)) as again:
        assert again.truncated, "after a restart too"


def test_metrics_are_found_in_whatever_pieces_a_log_comes(tmp_path: Path, output: Output) -> None:
    for piece in (
        b"epoch 1\nmlbuffet: met",
        b"ric loss=0.25 step=3\nmlbuffet: metric val/acc=9e-1\n",
        b"mlbuffet: metric",
    ):
        output.take(piece)
    output.keep(b'{"name": "rmse", "value": 2, "step": 1}\nnonsense\n{"name": "a b", "value": 1}\n[]\n')
    assert read_metrics(tmp_path / "metrics") == [
        {"name": "loss", "value": 0.25, "step": 3},
        {"name": "val/acc", "value": 0.9, "step": None},
        {"name": "rmse", "value": 2.0, "step": 1},
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"mlbuffet: metric loss=nan",
        b"mlbuffet: metric loss=1e999",
        b"mlbuffet: metric loss=x step=1",
        b"mlbuffet: metric lo ss=1",
        b"mlbuffet: metric loss=1 step=-1",
        b"say mlbuffet: metric loss=1",
        b"mlbuffet: metric loss=1 " + b" " * 600,
        b"mlbuffet: metric \xff=1",
    ],
)
def test_what_is_no_metric(tmp_path: Path, output: Output, line: bytes) -> None:
    output.take(line + b"\n")
    assert read_metrics(tmp_path / "metrics") == []


def test_metrics_are_bounded(tmp_path: Path, output: Output) -> None:
    output.keep(b'{"name":"a","value":1}\n' * (MOST_METRICS + 5))
    assert len(read_metrics(tmp_path / "metrics")) == MOST_METRICS


def test_a_run_is_durable_and_found_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.incoming() as folder:
        folder.script.write_bytes(b"print()")
        store.add(RUN, folder)
    store.put(MOVES["begin"](RUN))
    (tmp_path / "incoming/half").mkdir()
    (tmp_path / "runs/20261129t130000-00000001").mkdir()
    (tmp_path / "runs/20261129t130000-00000001/run.json").write_text("{")
    again = RunStore(tmp_path)
    assert again.all() == [MOVES["begin"](RUN)]
    assert again.trainer_id == store.trainer_id
    assert again.folder(RUN.run_id).script.read_bytes() == b"print()"
    assert list((tmp_path / "incoming").iterdir()) == []
    again.remove(RUN.run_id)
    with pytest.raises(RunNotFoundError):
        again.get(RUN.run_id)
    assert not again.folder(RUN.run_id).path.exists()


def test_what_did_not_become_a_run_is_gone(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.incoming() as folder:
        folder.script.write_bytes(b"")
    assert list((tmp_path / "incoming").iterdir()) == []


def test_the_oldest_runs_leave_and_those_under_way_stay(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for number in range(4):
        with store.incoming() as folder:
            store.add(replace(RUN, run_id=f"20261129t130000-0000000{number}"), folder)
    for run in store.all()[1:]:
        store.put(MOVES["kill"](run))
    store.prune(2)
    assert [run.run_id[-1] for run in store.all()] == ["0", "2", "3"]
    assert store.tally.counts == {("KILLED", "CANCELLED"): 3}


def test_files_go_out_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(700_000))
    packed = b"".join(pack([folder_of("site", 5), File("a", data=b"text", owner=7), File("b", path=tmp_path / "d")]))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = archive.getmembers()
        assert [(item.name, item.uid, item.size, item.isdir()) for item in members] == [
            ("site", 5, 0, True),
            ("a", 7, 4, False),
            ("b", 0, 700_000, False),
        ]


def _packed(kind: bytes = tarfile.REGTYPE, content: bytes = b"model") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("m.onnx")
        info.type, info.size, info.linkname = kind, len(content), "/etc/shadow"
        archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def test_a_file_comes_back_and_nothing_else_does() -> None:
    target = io.BytesIO()
    packed = _packed()
    assert unpack_file([packed[:100], packed[100:]], target, 5)
    assert target.getvalue() == b"model"
    assert not unpack_file([packed], io.BytesIO(), 4), "too large"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        assert not unpack_file([_packed(kind, b"")], io.BytesIO(), 5)
    for wrong in (packed[:514], b"no archive", b""):
        with pytest.raises(OSError, match="engine"):
            unpack_file([wrong], io.BytesIO(), 5)


def _found(*found: tuple[str, bool, int]) -> bytes:
    listed = [[path.encode().hex(), regular, size] for path, regular, size in found]
    return json.dumps({"found": listed, "metrics": 10**9}).encode()


def test_the_model_is_where_it_should_be_or_the_only_one_of_its_name() -> None:
    at_place, deep = ("/work/m.onnx", True, 5), ("/work/a/m.onnx", True, 6)
    assert read_survey(_found(deep), "m.onnx", 10) == Survey("/work/a/m.onnx", 1 << 20)
    assert read_survey(_found(deep, at_place), "m.onnx", 10).model_path == "/work/m.onnx"
    assert read_survey(_found(("/work/m.onnx/x/m.onnx", True, 1)), "m.onnx", 10).model_path == "/work/m.onnx/x/m.onnx"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "NO_MODEL"),
        ([("/work/m.onnx", False, 0)], "NO_MODEL"),
        ([("/work/a/m.onnx", True, 1), ("/work/b/m.onnx", True, 1)], "NO_MODEL"),
        ([("/work/m.onnx", True, 50 * 10**9)], "TOO_LARGE"),
    ],
)
def test_what_is_no_model(found: list[Any], reason: str) -> None:
    with pytest.raises(TrainingError) as caught:
        read_survey(_found(*found), "m.onnx", 10)
    assert caught.value.reason == reason


def test_environments_are_known_by_their_token_and_leave_by_their_age(tmp_path: Path) -> None:
    known = Environments(tmp_path, "tcp://a:1", 2)
    for number, name in enumerate("abc"):
        known.complete(name, f"token {number}")
        (next(tmp_path.iterdir()) / name).touch()
    assert known.is_complete("b", "token 1")
    assert not known.is_complete("b", "another")
    assert not known.is_complete("d", "")
    assert not Environments(tmp_path, "tcp://b:1", 2).is_complete("b", "token 1"), "of another engine"
    assert known.surplus() == ["a"]
    known.forget("a")
    assert known.surplus() == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tcp://node1:2376=2", Place("tcp://node1:2376", 2)),
        ("unix:///var/run/docker.sock", Place("unix:///var/run/docker.sock", 1)),
    ],
)
def test_engines_that_are_named(text: str, place: Place) -> None:
    assert Place.parse(text) == place


@pytest.mark.parametrize(
    "settings",
    [
        {"TRAINER_ENGINES": "http://a:2376"},
        {"TRAINER_ENGINES": "tcp://a:2376=0", "TRAINER_DOCKER_CERTS": "/x"},
        {"TRAINER_ENGINES": "tcp://a:2376=1"},
        {"TRAINER_ENGINES": "unix:///a=1,unix:///a=2"},
        {"TRAINER_CHANNEL": "tcp://0.0.0.0:8005"},
        {"TRAINER_UNISOLATED": "-1"},
        {"TRAINER_UNISOLATED": "1", "TRAINER_ENGINES": "unix:///a"},
        {"TRAINER_UNISOLATED": "1", "TRAINER_CHANNEL": "tcp://127.0.0.1:8005"},
        {"TRAINER_CHANNEL": "/run/x"},
        {"TRAINER_HOST": "0.0.0.0"},  # noqa: S104 - refused
        {"TRAINER_TIMEOUT_S": "100000"},
        {"TRAINER_CPUS": "0"},
        {"TRAINER_DATASET_BYTES": str(1 << 40)},
        {"TRAINER_KEEP_RUNS": "0"},
        {"TRAINER_PRIVILEGED": "1"},
    ],
)
def test_settings_that_cannot_work_stop_the_start(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError):
        read_trainer_settings()


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 40)
    monkeypatch.setenv("TRAINER_KEY_FILE", str(tmp_path / "key"))
    settings = read_trainer_settings()
    assert settings.key == "k" * 40
    assert "kkk" not in repr(settings)


def test_versions() -> None:
    assert version_of("1.1.5+ds1") == (1, 1, 5)
    assert version_of("1.2.8") >= (1, 2, 8)
    assert version_of("1.2.10-rc1") > (1, 2, 8)
