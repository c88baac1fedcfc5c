"""What the client does by itself: addresses, keys, bodies, JSON, and that nobody pays for it who does not ask."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from multipart import MultipartParser, parse_options_header

import mlbuffet
from mlbuffet import errors
from mlbuffet.client import Client
from mlbuffet.errors import ConnectionFailedError
from mlbuffet.transfer import Body, FilePart, Files, dumps, form, opened


def test_package_gives_client_version_and_errors() -> None:
    assert mlbuffet.Client is Client
    assert mlbuffet.errors is errors
    assert mlbuffet.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = mlbuffet.nothing


def test_package_alone_imports_no_http_client() -> None:
    script = "import sys, mlbuffet; sys.exit('requests' in sys.modules or 'mlbuffet.client' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in errors.all_errors()]
    assert len(codes) == len(set(codes))
    assert ConnectionFailedError.code in codes


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8002",
        "ftp://host",
        "http://",
        "http://[",
        "http://host:99999",
        "http://host/?a=1",
        "http://host/#a",
    ],
)
def test_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Client(url)


def test_refuses_a_password_in_the_address_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="key") as caught:
        Client("http://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_refuses_what_is_no_key_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        Client(key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "iris.onnx/download", "information", "ä"])
def test_name_that_could_lead_elsewhere_is_not_asked_for(name: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(errors.InvalidNameError):
        client.show(name)


def test_body_is_sent_from_its_beginning_each_time() -> None:
    seen: list[tuple[int, int]] = []
    content = os.urandom(600_000)
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    body = Body(file, None, lambda done, total: seen.append((done, total)))
    assert body.digest == hashlib.sha256(content).hexdigest()
    for _ in range(2):
        assert b"".join(body) == content
        assert len(body) == len(content)
    assert seen[-1] == (len(content), len(content))
    assert len(seen) == 6, "in pieces"


def test_form_has_the_length_it_says() -> None:
    made = form("path", {"model_description": "Größe"})
    body = Body(io.BytesIO(b"content"), made, None)
    sent = b"".join(body)
    assert len(sent) == len(body)
    boundary = made.content_type.partition("boundary=")[2].encode()
    assert sent.count(b"--" + boundary) == 3
    assert 'name="model_description"\r\n\r\nGröße\r\n'.encode() in sent
    assert sent.endswith(b"\r\n\r\ncontent\r\n--" + boundary + b"--\r\n")


def test_file_that_shrinks_while_it_is_sent_is_an_error() -> None:
    file = io.BytesIO(b"content")
    body = Body(file, None, None)
    file.truncate(3)
    with pytest.raises(errors.DigestMismatchError, match="shorter"):
        b"".join(body)


def test_file_that_grows_while_it_is_sent_is_cut() -> None:
    file = io.BytesIO(b"content")
    body = Body(file, None, None)
    file.seek(0, io.SEEK_END)
    file.write(b"more")
    assert b"".join(body) == b"content"


def test_stream_that_cannot_be_rewound_is_kept() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"content")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe, opened(pipe) as file:
        assert file.read() == b"content"
        file.seek(0)
        assert file.read() == b"content"


def test_path_of_a_pipe_is_read_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["sh", "-c", f"printf content > {fifo}"]), opened(fifo) as file:
        assert Body(file, None, None).digest == hashlib.sha256(b"content").hexdigest()


def test_arrays_are_written_as_lists() -> None:
    values = {"a": np.arange(4, dtype=np.int64).reshape(2, 2), "b": [np.float32(0.5), np.array([True])]}
    assert json.loads(dumps(values)) == {"a": [[0, 1], [2, 3]], "b": [0.5, [True]]}


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], np.array([np.nan])])
def test_what_json_lacks_is_refused(value: object) -> None:
    with pytest.raises(errors.InvalidJSONError, match="no form in JSON"):
        dumps(value)


def test_values_that_hold_themselves_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(errors.InvalidJSONError):
        dumps(endless)


def test_other_objects_are_a_programming_error() -> None:
    with pytest.raises(TypeError, match="set"):
        dumps({1, 2})


def test_a_form_of_several_files_is_what_it_says_each_time_it_is_sent() -> None:
    files = [b"print()\r\n", b"", bytes(300_000)]
    sources = [io.BytesIO(b"skipped" + data) for data in files]
    for source in sources:
        source.seek(len(b"skipped"))
    names = ["train.py", 'a "b"\r\n.txt', "größer.csv"]
    parts = [FilePart("dataset", *pair) for pair in zip(names, sources, strict=True)]
    body = Files({"timeout_s": "60", "description": "größer"}, parts)
    sent = b"".join(body)
    assert (len(body), b"".join(body)) == (len(sent), sent)
    _, options = parse_options_header(body.content_type)
    found = list(MultipartParser(io.BytesIO(sent), options["boundary"], strict=True, spool_limit=1 << 20))
    assert [part.raw for part in found] == [b"60", "größer".encode(), *files]
    assert [part.name for part in found] == ["timeout_s", "description", *["dataset"] * 3]
    assert [part.filename for part in found[2:]] == names
    for part in found:
        part.close()


def test_a_file_that_became_shorter_is_not_sent_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with path.open("rb") as file:
        body = Files({}, [FilePart("dataset", "file", file)])
        path.write_bytes(b"123")
        with pytest.raises(errors.DigestMismatchError):
            list(body)
