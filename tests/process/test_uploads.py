"""Uploads, whole and broken: table U of the acceptance tables, rows U01 to U10, U19 and U22."""

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import requests

from tests.harness import onnx_models
from tests.harness.invariants import unharmed, usage
from tests.harness.platform import SAMPLES, RunningPlatform, running_platform, wait_until
from tests.harness.upload_client import FORM, RawClient, multipart

NAME = "upload.onnx"
FILE = 'name="path"; filename="model.onnx"'


@pytest.fixture
def model(shared_platform: RunningPlatform) -> Iterator[str]:
    """A model that answers 1, gone afterwards."""
    assert shared_platform.put(NAME, onnx_models.constant(1)).status_code == 201
    yield NAME
    requests.delete(shared_platform.path(NAME), timeout=10)
    wait_until(lambda: not _runners(shared_platform, NAME), what="the runners of the deleted model being gone")


def _runners(platform: RunningPlatform, name: str) -> list[int]:
    """Processes that hold a model."""
    found = []
    for pid in usage(platform):
        try:
            if Path(f"/proc/{pid}/comm").read_text().startswith(f"runner {name}"[:15]):
                found.append(pid)
        except FileNotFoundError:
            continue
    return found


def _delete(platform: RunningPlatform, *names: str) -> None:
    for name in names:
        assert requests.delete(platform.path(name), timeout=20).status_code == 200


def _code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def _answer(platform: RunningPlatform, name: str = NAME) -> list[list[float]]:
    response = platform.predict(name, [0])
    assert response.status_code == 200, response.text
    values: list[list[float]] = response.json()["values"]
    return values


def test_u01_valid_upload_is_on_every_modelhost_within_two_seconds(shared_platform: RunningPlatform) -> None:
    data = onnx_models.constant(7, padding_bytes=1 << 20)
    digest = hashlib.sha256(data).hexdigest()
    with unharmed(shared_platform):
        uploaded = shared_platform.put("first.onnx", data, **{"X-Content-SHA256": digest})
        assert uploaded.status_code == 201
        assert uploaded.json()["digest"] == f"sha256:{digest}"
        assert uploaded.json()["version"] == 1
        assert uploaded.headers["Location"] == "/api/v1/models/first.onnx:1"

        def loaded() -> bool:
            hosts = requests.get(shared_platform.path("first.onnx"), timeout=5).json()["modelhosts"]
            return len(hosts) == 2 and all(host["state"] == "READY" for host in hosts)

        wait_until(loaded, 2, "the model being loaded on both modelhosts")
        assert _answer(shared_platform, "first.onnx") == [[7.0]]
        _delete(shared_platform, "first.onnx")


def test_u02_wrong_digest_is_refused_and_nothing_is_stored(shared_platform: RunningPlatform) -> None:
    data = onnx_models.constant(1)
    wrong = hashlib.sha256(b"other").digest()
    with unharmed(shared_platform):
        for headers in (
            {"X-Content-SHA256": wrong.hex()},
            {"Content-Digest": f"sha-256=:{base64.b64encode(wrong).decode()}:"},
        ):
            assert _code(shared_platform.put("digest.onnx", data, **headers)) == (400, "DIGEST_MISMATCH")
        for headers in ({"X-Content-SHA256": "abc"}, {"Content-Digest": "md5=:abc:"}):
            assert _code(shared_platform.put("digest.onnx", data, **headers)) == (400, "BAD_REQUEST")
        assert requests.get(shared_platform.path("digest.onnx"), timeout=5).status_code == 404
        assert not (shared_platform.repository / "digest.onnx").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.9999])
def test_u03_cut_multipart_body(shared_platform: RunningPlatform, model: str, share: float) -> None:
    body = multipart((FILE, onnx_models.constant(2, padding_bytes=1 << 20)))
    with unharmed(shared_platform):
        with RawClient(shared_platform) as client:
            client.put(model, len(body), f"Content-Type: {FORM['Content-Type']}")
            client.send(body[: int(len(body) * share)])
            client.finish_sending()
            status, answer = client.answer()
        assert (status, answer["error"]["code"]) == (400, "INCOMPLETE_BODY")
        assert _answer(shared_platform) == [[1.0]]


@pytest.mark.parametrize("how", ["half_close", "reset"])
def test_u05_one_byte_too_few(shared_platform: RunningPlatform, model: str, how: str) -> None:
    body = onnx_models.constant(2, padding_bytes=1 << 20)
    with unharmed(shared_platform):
        with RawClient(shared_platform) as client:
            client.put(model, len(body))
            client.send(body[:-1])
            if how == "half_close":
                client.finish_sending()
                status, answer = client.answer()
                assert (status, answer["error"]["code"]) == (400, "INCOMPLETE_BODY")
            else:
                client.reset()
        wait_until(lambda: not shared_platform.staged(), what="the cut upload being gone")
        assert _answer(shared_platform) == [[1.0]]


def test_u05_stalled_body(tmp_path: Path) -> None:
    body = onnx_models.constant(2, padding_bytes=1 << 20)
    settings = {"INFERRER_BODY_IDLE_S": "1"}
    with running_platform(tmp_path / "repository", environment=settings) as platform, unharmed(platform):
        with RawClient(platform) as client:
            client.put(NAME, len(body))
            client.send(body[:-1])
            status, answer = client.answer()
        assert (status, answer["error"]["code"]) == (408, "REQUEST_TIMEOUT")
        # It is the silence that counts: who sends on slowly may take longer than the limit.
        with RawClient(platform) as client:
            client.put(NAME, len(body))
            for start in range(0, len(body), len(body) // 5 + 1):
                client.send(body[start : start + len(body) // 5 + 1])
                time.sleep(0.4)  # the point of this test
            status, answer = client.answer()
        assert status == 201, answer
        _delete(platform, NAME)


def test_u06_body_at_and_over_the_limit(tmp_path: Path) -> None:
    model = onnx_models.constant(3, padding_bytes=1 << 20)
    settings = {"INFERRER_UPLOAD_BYTES": str(len(model))}
    with running_platform(tmp_path / "repository", environment=settings) as platform, unharmed(platform):
        assert platform.put(NAME, model).status_code == 201
        for header in ((), ("Expect: 100-continue",)):
            with RawClient(platform, timeout_s=2) as client:
                client.put(NAME, len(model) + 1, *header)  # and not a byte of the body
                status, answer = client.answer()
            assert (status, answer["error"]["code"]) == (413, "TOO_LARGE")
        with RawClient(platform) as client:
            head = f"PUT /api/v1/models/{NAME} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.send(head.encode())
            client.send(b"%x\r\n%b\r\n" % (len(model) + 1, bytes(len(model) + 1)))
            status, answer = client.answer()
        assert (status, answer["error"]["code"]) == (413, "TOO_LARGE")
        assert _answer(platform) == [[3.0]]
        _delete(platform, NAME)


def test_u07_what_is_no_model(shared_platform: RunningPlatform, model: str) -> None:
    whole = (SAMPLES / "digits.onnx/1/model.onnx").read_bytes()
    rng = random.Random(7)  # noqa: S311 - repeatable
    bodies = [b"", bytes(4096), b"hello", (SAMPLES / "images/seven.png").read_bytes()]
    bodies += [whole[: rng.randrange(1, len(whole))] for _ in range(20)]
    with unharmed(shared_platform):
        for body in bodies:
            assert _code(shared_platform.put(model, body)) == (422, "INVALID_MODEL")
        empty = multipart((FILE, b""))
        assert _code(requests.put(shared_platform.path(model), empty, headers=FORM, timeout=20)) == (
            422,
            "INVALID_MODEL",
        )
        assert _answer(shared_platform) == [[1.0]]


def test_u08_bad_forms(shared_platform: RunningPlatform, model: str) -> None:
    data = onnx_models.constant(2)
    form = multipart((FILE, data))
    bad = [
        (FORM, multipart()),
        (FORM, multipart(('name="model_description"', b"no file"))),
        (FORM, multipart((FILE, data), (FILE, data))),
        (FORM, multipart((FILE, data), ('name="descripton"', b"mistyped"))),
        (FORM, multipart((FILE, data), ('name="model_description"', b"a"), ('name="model_description"', b"b"))),
        (FORM, multipart(('name="model"; filename="model.onnx"', data))),
        (FORM, multipart((FILE, data), ('name="model_description"', b"\xff\xfe"))),
        (FORM, form[:-4]),
        (FORM, b"--limit\r\n\r\nno name\r\n--limit--\r\n"),
        (FORM, b"no form at all"),
        (FORM, b""),
        ({"Content-Type": "multipart/form-data"}, form),
        ({"Content-Type": "multipart/form-data; boundary="}, form),
        ({"Content-Type": "multipart/form-data; boundary=other"}, form),
    ]
    with unharmed(shared_platform):
        for headers, body in bad:
            response = requests.put(shared_platform.path(model), body, headers=headers, timeout=20)
            assert _code(response) == (400, "BAD_MULTIPART"), (headers, body[-200:], response.text)
        assert _answer(shared_platform) == [[1.0]]


def test_u09_names_of_files_are_not_looked_at(platform: RunningPlatform) -> None:
    names = ["../../etc/passwd", "a\x00b.onnx", "C:\\x", "y" * 4096, "", "\u202exnno.exe", "a/../../b", "/abs.onnx"]
    places = platform.repository.parent
    with unharmed(platform):
        before = sorted(str(path) for path in places.rglob("*") if ".mlbuffet" not in path.parts)
        for number, name in enumerate(names, 2):
            quoted = name.replace("\\", "\\\\")
            body = multipart((f'name="path"; filename="{quoted}"', onnx_models.constant(number)))
            response = requests.put(platform.path(NAME), body, headers=FORM, timeout=20)
            assert response.status_code == 201, (name, response.text)
            assert _answer(platform) == [[float(number)]]
        wait_until(lambda: not platform.staged())
        after = {str(path) for path in places.rglob("*") if ".mlbuffet" not in path.parts}
        own = platform.repository / NAME
        expected = {str(own), str(own / "default")}
        for version in range(1, len(names) + 1):
            folder = own / str(version)
            expected |= {str(folder), str(folder / "model.onnx"), str(folder / "manifest.json")}
        assert after - set(before) == expected
        assert not Path("/abs.onnx").exists()
        _delete(platform, NAME)
        assert sorted(str(path) for path in places.rglob("*") if ".mlbuffet" not in path.parts) == before


_DESCRIPTION = 'name="model_description"'
_HEADERS = b"".join(b"X-%d: y\r\n" % number for number in range(10_000))

# Good forms around a bad model, and what is no good form; made when they are needed, for they are large.
_GOOD_FORMS = {
    "CR and 20 MB": lambda: multipart((FILE, b"\r" + bytes(20 << 20))),
    "20 MB of CR": lambda: multipart((FILE, b"\r" * (20 << 20))),
    "20 MB of almost boundaries": lambda: multipart((FILE, b"\r\n--limi" * (20 << 17))),
}
_BAD_FORMS = {
    "1,001 parts": lambda: multipart(*[(_DESCRIPTION, b"a")] * 1001),
    "600 KB field": lambda: multipart((FILE, onnx_models.constant(2)), (_DESCRIPTION, b"a" * 600_000)),
    "10,000 headers": lambda: b'--limit\r\n%bContent-Disposition: form-data; name="path"\r\n\r\na\r\n' % _HEADERS,
    "a million dashes": lambda: b"--limit" + b"-" * 1_000_000 + b"\r\n" + multipart((FILE, onnx_models.constant(2))),
    "30 MB preamble": lambda: bytes(30 << 20) + multipart((FILE, onnx_models.constant(2))),
    "30 MB epilogue": lambda: multipart((FILE, onnx_models.constant(2))) + bytes(30 << 20),
    "20 MB without a line break": lambda: b"--limit\r\nContent-Disposition: " + b"a" * (20 << 20),
}


@pytest.mark.parametrize("kind", [*_GOOD_FORMS, *_BAD_FORMS])
def test_u10_hostile_forms_cost_little(shared_platform: RunningPlatform, model: str, kind: str) -> None:
    body = (_GOOD_FORMS | _BAD_FORMS)[kind]()
    with unharmed(shared_platform):
        before = _cpu_s(shared_platform)
        with RawClient(shared_platform) as client:
            client.put(model, len(body), f"Content-Type: {FORM['Content-Type']}")
            client.send(body)
            status, answer = client.answer()
        expected = {"INVALID_MODEL"} if kind in _GOOD_FORMS else {"BAD_MULTIPART", "TOO_LARGE"}
        assert answer["error"]["code"] in expected, (status, answer)
        assert _cpu_s(shared_platform) - before < 2
        assert _answer(shared_platform) == [[1.0]]


def _cpu_s(platform: RunningPlatform) -> float:
    """CPU time that the inferrer's processes have used."""
    total = 0.0
    for pid in (platform.processes["inferrer"].pid, *platform.children("inferrer")):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / 100
    return total


def test_u19_the_filter_is_not_over_broad(shared_platform: RunningPlatform) -> None:
    good = ["v1.2_x-3", "0", "A", "x" * 64, "a.b.c", "model_", "7up.onnx", "Model-1.0.0-rc.1"]
    bad = ["model..1", ".hidden", "-dash", "_under", "x" * 65, "a b", "ä", "default", "DOWNLOAD", "a:1", "a%2Fb"]
    data = onnx_models.constant(19)
    with unharmed(shared_platform):
        for name in good:
            assert shared_platform.put(name, data).status_code == 201, name
            assert _answer(shared_platform, name) == [[19.0]]
        assert set(good) <= set(shared_platform.names())
        _delete(shared_platform, *good)
        for name in bad:
            status, code = _code(shared_platform.put(name, data))
            assert (status, code) in {(400, "INVALID_NAME"), (400, "BAD_REQUEST"), (404, "NOT_FOUND")}, (name, code)
        for suffix in ("pt", "PKL", "h5", "joblib", "zip"):
            assert _code(shared_platform.put(f"model.{suffix}", data)) == (415, "UNSUPPORTED_TYPE")


def test_u22_retry_after_a_dropped_reply(shared_platform: RunningPlatform) -> None:
    data, key = onnx_models.constant(22), "f1a7-once"
    name = "idempotent.onnx"
    with unharmed(shared_platform):
        with RawClient(shared_platform) as client:
            client.put(name, len(data), f"Idempotency-Key: {key}")
            client.send(data)
            wait_until(lambda: name in shared_platform.names(), what="the upload being carried out")
            client.reset()
        retried = [shared_platform.put(name, data, **{"Idempotency-Key": key}) for _ in range(3)]
        assert [(item.status_code, item.json()["version"]) for item in retried] == [(201, 1)] * 3
        assert _versions(shared_platform, name) == [1]
        other = shared_platform.put(name, onnx_models.constant(23), **{"Idempotency-Key": key})
        assert _code(other) == (409, "IDEMPOTENCY_CONFLICT")
        # A later change stands: the repetition of an older one does not undo it.
        assert shared_platform.put(name, onnx_models.constant(24)).status_code == 201
        late = shared_platform.put(name, data, **{"Idempotency-Key": key})
        assert (late.status_code, late.json()["version"]) == (201, 1)
        assert _answer(shared_platform, name) == [[24.0]]
        assert _code(shared_platform.put(name, data, **{"Idempotency-Key": "a b"})) == (400, "BAD_REQUEST")
        _delete(shared_platform, name)


def test_u22_retries_at_the_same_time(shared_platform: RunningPlatform) -> None:
    data, name = onnx_models.constant(25, padding_bytes=1 << 20), "together.onnx"
    with unharmed(shared_platform):
        clients = [RawClient(shared_platform) for _ in range(8)]
        for client in clients:
            client.put(name, len(data), "Idempotency-Key: together")
        for client in clients:
            client.send(data)
        answers = [client.answer() for client in clients]
        for client in clients:
            client.sock.close()
        assert {(status, answer["version"]) for status, answer in answers} == {(201, 1)}
        assert _versions(shared_platform, name) == [1]
        _delete(shared_platform, name)


def _versions(platform: RunningPlatform, name: str) -> list[int]:
    found = requests.get(platform.path(name), timeout=5).json()["versions"]
    return [item["version"] for item in found]


def test_same_bytes_again_are_the_same_version(shared_platform: RunningPlatform) -> None:
    model = onnx.load_from_string(onnx_models.constant(26))
    model.doc_string = "the same but for its words"
    with unharmed(shared_platform):
        assert shared_platform.put("same.onnx", onnx_models.constant(26)).status_code == 201
        assert shared_platform.put("same.onnx", onnx_models.constant(26)).status_code == 200
        assert shared_platform.put("same.onnx", model.SerializeToString()).json()["version"] == 2
        assert _versions(shared_platform, "same.onnx") == [1, 2]
        _delete(shared_platform, "same.onnx")
