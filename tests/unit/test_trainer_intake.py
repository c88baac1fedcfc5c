"""What is taken of a training request: files, fields, names and numbers (ACCEPTANCE T13, T21)."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbuffet import errors
from mlbuffet.errors import MLBuffetError
from trainer.intake import Intake
from trainer.requirements import check_requirements
from trainer.runs import Inputs, Limits
from trainer.settings import TrainerSettings
from trainer.store import RunFolder
from trainer.wishes import read_wish

SETTINGS = TrainerSettings(script_bytes=100, dataset_bytes=200)
SCRIPT, REQUIREMENTS = ("script", "train.py", b"print()"), ("requirements", "requirements.txt", b"numpy\n")
DATASET = ("dataset", "wine.csv", b"1,2")
Part = tuple[str, str, bytes]


def _form(*parts: Part, **fields: str) -> bytes:
    text = b""
    for name, file_name, content in parts:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n\r\n'
        text += head.encode() + content + b"\r\n"
    for name, value in fields.items():
        text += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    return text + b"--b--\r\n"


class _Stream(io.BytesIO):
    """Gives a few bytes at a time, as a slow client does."""

    def read1(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002 - io's signature
        return self.read(7)


def _receive(folder: Path, *parts: Part, **fields: str) -> tuple[Inputs, Mapping[str, str]]:
    kept = RunFolder(folder)
    kept.dataset.mkdir(parents=True)
    return Intake(kept, "m.onnx", SETTINGS).receive(_Stream(_form(*parts, **fields)), "multipart/form-data; boundary=b")


def test_a_request_is_received_byte_for_byte(tmp_path: Path) -> None:
    other = ("dataset", "more.csv", bytes(range(100)))
    inputs, fields = _receive(tmp_path, SCRIPT, REQUIREMENTS, DATASET, other, timeout_s="5", description="Wine")
    assert fields == {"timeout_s": "5", "description": "Wine"}
    assert (tmp_path / "inputs/train.py").read_bytes() == b"print()"
    assert (tmp_path / "inputs/dataset/more.csv").read_bytes() == bytes(range(100))
    assert inputs.script.sha256 == hashlib.sha256(b"print()").hexdigest()
    assert [(item.name, item.size_bytes) for item in inputs.dataset] == [("wine.csv", 3), ("more.csv", 100)]


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((REQUIREMENTS, DATASET), errors.MissingScriptError),
        ((SCRIPT, DATASET), errors.MissingRequirementsError),
        ((SCRIPT, REQUIREMENTS), errors.MissingDatasetError),
        ((SCRIPT, SCRIPT, REQUIREMENTS, DATASET), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, DATASET, DATASET), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "WINE.csv", b""), DATASET), errors.BadMultipartError),
        ((("script", "../../x.py", b""), REQUIREMENTS, DATASET), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "a/b.csv", b"")), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "..", b"")), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "", b"")), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "train.py", b"")), errors.BadMultipartError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "M.onnx", b"")), errors.BadMultipartError),
        ((("script", "train.py", bytes(101)), REQUIREMENTS, DATASET), errors.TooLargeError),
        ((SCRIPT, REQUIREMENTS, ("dataset", "a", bytes(150)), ("dataset", "b", bytes(51))), errors.TooLargeError),
        ((SCRIPT, ("requirements", "r", b"-r /etc/passwd"), DATASET), errors.InvalidRequirementsError),
        ((SCRIPT, REQUIREMENTS, DATASET, ("model", "x", b"")), errors.BadMultipartError),
    ],
)
def test_what_is_missing_or_should_not_be_there(
    tmp_path: Path, parts: tuple[Part, ...], error: type[MLBuffetError]
) -> None:
    with pytest.raises(error):
        _receive(tmp_path, *parts)


@pytest.mark.parametrize(
    "field", ["privileged", "volumes", "network_mode", "devices", "image", "entrypoint", "env", "user"]
)
def test_t13_nothing_of_a_container_can_be_asked_for(tmp_path: Path, field: str) -> None:
    with pytest.raises(errors.BadMultipartError, match=field):
        _receive(tmp_path, SCRIPT, REQUIREMENTS, DATASET, **{field: "true"})


def test_another_kind_of_body_is_none(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedTypeError):
        Intake(RunFolder(tmp_path), "m.onnx", SETTINGS).receive(io.BytesIO(b"{}"), "application/json")


def _wish(**fields: str) -> Any:  # noqa: ANN401 - what is looked at differs
    return read_wish("m.onnx", fields, SETTINGS)


def test_what_is_not_asked_for_is_the_operators_choice() -> None:
    wish = _wish()
    assert wish.limits == Limits(SETTINGS.timeout_s, SETTINGS.memory_bytes, SETTINGS.cpus)
    assert (wish.parameters, wish.description, wish.activate, wish.retries) == ({}, None, True, 0)


def test_what_is_asked_for() -> None:
    parameters = '{"alpha": 0.5, "depth": 3, "fast": true, "kind": "a b"}'
    wish = _wish(timeout_s="9.5", memory_bytes="1e9", cpus="0.5", parameters=parameters, activate="false", retries="1")
    assert wish.limits == Limits(9.5, 1_000_000_000, 0.5)
    assert wish.parameters == {"alpha": 0.5, "depth": 3, "fast": True, "kind": "a b"}
    assert (wish.activate, wish.retries) == (False, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timeout_s", "0"),
        ("timeout_s", "nan"),
        ("timeout_s", "1e9"),
        ("memory_bytes", "1"),
        ("memory_bytes", str(1 << 40)),
        ("cpus", "-1"),
        ("cpus", "many"),
        ("activate", "yes"),
        ("retries", "2"),
        ("parameters", "[]"),
        ("parameters", '{"a": null}'),
        ("parameters", '{"a": [1]}'),
        ("parameters", '{"a": 1, "a": 2}'),
        ("parameters", '{"a-b": 1, "A_B": 2}'),
        ("parameters", '{"a b": 1}'),
        ("parameters", '{"-a": 1}'),
        ("parameters", '{"a": "\\u0000"}'),
        ("description", "x" * 20_000),
    ],
)
def test_what_no_field_can_be(name: str, text: str) -> None:
    with pytest.raises(errors.UnprocessableError):
        _wish(**{name: text})


def test_parameters_are_json() -> None:
    with pytest.raises(errors.InvalidJSONError):
        _wish(parameters="{alpha: 1}")


def test_limits_stand_below_the_operators() -> None:
    with pytest.raises(errors.UnprocessableError):
        read_wish("m.onnx", {"cpus": "2"}, replace(SETTINGS, most_cpus=1.0))


@pytest.mark.parametrize(
    "text",
    ["", "numpy", "scikit-learn==1.7.2\n# why\n\n  skl2onnx >= 1.19 # new\n", 'numpy>=2; python_version > "3.10"'],
)
def test_requirements_that_are_taken(text: str) -> None:
    check_requirements(text.encode(), urls=False)


@pytest.mark.parametrize(
    "line",
    [
        "-r other.txt",
        "--index-url http://elsewhere",
        "-e .",
        "numpy --hash=sha256:00",
        "./local.whl",
        "http://elsewhere/x.whl",
        "git+https://elsewhere/x",
        "x @ https://elsewhere/x.whl",
        "numpy; os_name ==",
        "a b",
        "numpy\\",
    ],
)
def test_requirements_that_are_not(line: str) -> None:
    with pytest.raises(errors.InvalidRequirementsError, match="line 2"):
        check_requirements(f"numpy\n{line}\n".encode(), urls=False)


def test_addresses_are_taken_where_that_is_allowed() -> None:
    check_requirements(b"x @ https://elsewhere/x.whl", urls=True)
    with pytest.raises(errors.InvalidRequirementsError):
        check_requirements(b"\xff", urls=True)
