"""The model routes as a client sees them: versions, conditions, conflicts, downloads, several inferrer processes."""

import hashlib
import json
from collections.abc import Iterator

import pytest
import requests

from tests.harness import onnx_models
from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform

NAME = "routes.onnx"
FRESH = 8  # connections of their own: enough that each of two inferrer processes is asked


@pytest.fixture
def two_versions(shared_platform: RunningPlatform) -> Iterator[RunningPlatform]:
    """A model whose version 1 answers 1 and whose version 2, the default, answers 2."""
    for value in (1, 2):
        assert shared_platform.put(NAME, onnx_models.constant(value)).status_code == 201
    yield shared_platform
    requests.delete(shared_platform.path(NAME), timeout=10)


def _code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def _answers(platform: RunningPlatform, name: str = NAME) -> set[float]:
    return {platform.predict(name, [0]).json()["values"][0][0] for _ in range(FRESH)}


def test_references_on_every_route(two_versions: RunningPlatform) -> None:
    platform = two_versions
    with unharmed(platform, models=[name for name in platform.names() if name != NAME], resources=False):
        for ref, version in ((NAME, 2), (f"{NAME}:default", 2), (f"{NAME}:1", 1), (f"{NAME}:2", 2)):
            assert requests.get(platform.path(ref), timeout=5).json()["version"] == version
            download = requests.get(f"{platform.path(ref)}/download", timeout=5)
            assert download.headers["X-Model-Version"] == str(version)
            assert download.content == onnx_models.constant(version)
            predicted = platform.predict(ref, [0])
            assert predicted.json()["values"] == [[float(version)]]
            assert predicted.headers["X-Model-Version"] == str(version)
            text = f"description of {version}"
            described = requests.post(platform.path(ref), json={"model_description": text}, timeout=5)
            assert (described.json()["version"], described.json()["description"]) == (version, text)
        for suffix in ("3", "0", "01", "-1", "latest", "", "1:2", "9" * 30):
            ref = f"{NAME}:{suffix}"
            answers = [
                requests.get(platform.path(ref), timeout=5),
                requests.get(f"{platform.path(ref)}/download", timeout=5),
                platform.predict(ref, [0]),
                requests.post(platform.path(ref), json={"pinned": False}, timeout=5),
                requests.delete(platform.path(ref), timeout=5),
            ]
            assert {_code(item) for item in answers} == {(404, "VERSION_NOT_FOUND")}, ref
        assert _code(platform.put(f"{NAME}:2", onnx_models.constant(1))) == (400, "BAD_REQUEST")
        assert requests.delete(platform.path(NAME), timeout=5).status_code == 200


def test_roll_back_and_forward_is_seen_at_once_everywhere(two_versions: RunningPlatform) -> None:
    platform = two_versions
    with unharmed(platform, resources=False):
        for version in (1, 2, 1, 2):
            answer = requests.post(f"{platform.path(NAME)}/default", json={"default": version}, timeout=20)
            assert (answer.status_code, answer.json()["default"]) == (200, version)
            assert _answers(platform) == {float(version)}
            shown = {requests.get(platform.path(NAME), timeout=5).json()["default"] for _ in range(FRESH)}
            assert shown == {version}
        for wrong in ("1", 1.0, True, None, [1]):
            answer = requests.post(f"{platform.path(NAME)}/default", json={"default": wrong}, timeout=5)
            assert _code(answer) == (422, "INVALID_FIELD"), wrong
        answer = requests.post(f"{platform.path(NAME)}/default", json={"default": 7}, timeout=5)
        assert _code(answer) == (404, "VERSION_NOT_FOUND")


def test_every_change_is_seen_at_once_by_every_process(shared_platform: RunningPlatform) -> None:
    platform = shared_platform
    with unharmed(platform, resources=False):
        for value in range(1, 6):
            assert platform.put("seen.onnx", onnx_models.constant(value)).status_code == 201
            assert _answers(platform, "seen.onnx") == {float(value)}
            text = f"number {value}"
            requests.post(platform.path("seen.onnx"), json={"model_description": text}, timeout=5)
            seen = {requests.get(platform.path("seen.onnx"), timeout=5).json()["description"] for _ in range(FRESH)}
            assert seen == {text}
        assert requests.delete(platform.path("seen.onnx"), timeout=5).status_code == 200
        assert {platform.predict("seen.onnx", [0]).status_code for _ in range(FRESH)} == {404}


def test_the_default_version_is_not_deleted_while_others_exist(two_versions: RunningPlatform) -> None:
    platform = two_versions
    with unharmed(platform, models=[name for name in platform.names() if name != NAME], resources=False):
        assert _code(requests.delete(platform.path(f"{NAME}:2"), timeout=5)) == (409, "DEFAULT_VERSION")
        requests.post(f"{platform.path(NAME)}/default", json={"default": 1}, timeout=20)
        assert requests.delete(platform.path(f"{NAME}:2"), timeout=5).status_code == 200
        assert _code(platform.predict(f"{NAME}:2", [0])) == (404, "VERSION_NOT_FOUND")
        # A number that was given is never given again.
        assert platform.put(NAME, onnx_models.constant(3)).json()["version"] == 3
        assert requests.delete(platform.path(f"{NAME}:1"), timeout=5).status_code == 200
        assert requests.delete(platform.path(f"{NAME}:3"), timeout=5).status_code == 200  # the last: the model goes
        assert _code(requests.get(platform.path(NAME), timeout=5)) == (404, "MODEL_NOT_FOUND")
        assert _code(requests.delete(platform.path(NAME), timeout=5)) == (404, "MODEL_NOT_FOUND")


def test_a_version_can_be_there_without_being_the_default(two_versions: RunningPlatform) -> None:
    platform = two_versions
    default = requests.get(platform.path(NAME), timeout=10).json()["default"]

    def upload(value: int, activate: str, name: str = NAME) -> requests.Response:
        data, files = {"activate": activate}, {"path": onnx_models.constant(value)}
        key = {"Idempotency-Key": f"inactive-{value}"}
        return requests.put(platform.path(name), data=data, files=files, headers=key, timeout=60)

    made = upload(77, "false")
    version = made.json()["version"]
    assert made.status_code == 201
    assert made.headers["Location"] == f"/api/v1/models/{NAME}:{version}"
    for repeated in (upload(77, "false"), upload(77, "false")):
        assert (repeated.status_code, repeated.json()["version"]) == (201, version)
    assert requests.get(platform.path(NAME), timeout=10).json()["default"] == default
    assert platform.predict(f"{NAME}:{version}", [[1]]).json()["values"] == [[77]]
    assert platform.predict(NAME, [[1]]).json()["values"] != [[77]]
    assert upload(77, "true").json()["version"] == version, "the same upload, wanted as the default after all"
    assert platform.predict(NAME, [[1]]).json()["values"] == [[77]]
    first = upload(78, "false", "inactive.onnx")
    assert (first.status_code, first.json()["version"]) == (201, 1)
    assert platform.predict("inactive.onnx", [[1]]).json()["values"] == [[78]], "without a default there is no model"
    assert requests.delete(platform.path("inactive.onnx"), timeout=10).status_code == 200
    assert _code(upload(79, "yes")) == (422, "INVALID_FIELD")


def test_if_match(two_versions: RunningPlatform) -> None:
    platform = two_versions
    with unharmed(platform, resources=False):
        etag = requests.get(f"{platform.path(NAME)}/download", timeout=5).headers["ETag"]
        stale = requests.get(f"{platform.path(f'{NAME}:1')}/download", timeout=5).headers["ETag"]
        refused = platform.put(NAME, onnx_models.constant(3), **{"If-Match": stale})
        assert _code(refused) == (412, "PRECONDITION_FAILED")
        assert _answers(platform) == {2.0}
        assert _code(platform.put("none.onnx", onnx_models.constant(3), **{"If-Match": "*"}))[0] == 412
        assert platform.put(NAME, onnx_models.constant(3), **{"If-Match": etag}).json()["version"] == 3
        assert platform.put(NAME, onnx_models.constant(4), **{"If-Match": "*"}).json()["version"] == 4


def test_names_that_differ_by_case(shared_platform: RunningPlatform) -> None:
    with unharmed(shared_platform, resources=False):
        refused = shared_platform.put("IRIS.onnx", onnx_models.constant(1))
        assert _code(refused) == (409, "NAME_CONFLICT")
        assert "iris.onnx" in refused.json()["error"]["message"]
        assert _code(shared_platform.predict("IRIS.onnx", [0])) == (404, "MODEL_NOT_FOUND")


def test_download_is_the_upload(shared_platform: RunningPlatform) -> None:
    data = onnx_models.constant(5, padding_bytes=3 << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with unharmed(shared_platform, resources=False):
        assert shared_platform.put("down.onnx", data).json()["digest"] == digest
        url = f"{shared_platform.path('down.onnx')}/download"
        got = requests.get(url, timeout=20)
        assert got.content == data
        assert got.headers["ETag"] == f'"{digest}"'
        assert got.headers["Content-Length"] == str(len(data))
        assert got.headers["Content-Type"] == "application/octet-stream"
        head = requests.head(url, timeout=5)
        assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(data)), b"")
        with requests.get(url, stream=True, timeout=5) as partly:
            partly.raw.read(1 << 16)  # and go away
        assert requests.delete(shared_platform.path("down.onnx"), timeout=5).status_code == 200


def test_description_and_settings_are_taken_over_by_the_next_version(shared_platform: RunningPlatform) -> None:
    image = {"scale": 0.5, "mean": [1.0], "std": [2.0], "labels": ["ä", "b"]}
    with unharmed(shared_platform, resources=False):
        fields = {"model_description": "größer", "image": json.dumps(image)}
        first = {"path": onnx_models.image_mean(1)}
        url = shared_platform.path("image.onnx")
        assert requests.put(url, files=first, data=fields, timeout=20).status_code == 201
        assert shared_platform.put("image.onnx", onnx_models.image_mean(1, 16)).json()["version"] == 2
        shown = requests.get(url, timeout=5).json()
        assert (shown["version"], shown["description"], shown["image"]) == (2, "größer", image)
        changed = requests.post(url, json={"image": {"scale": 2}, "pinned": True}, timeout=5)
        assert (changed.status_code, changed.json()["pinned"]) == (200, True)
        for bad in ({}, {"other": 1}, {"pinned": 1}, {"image": {"std": [0]}}, {"model_description": "x" * 10_001}):
            assert _code(requests.post(url, json=bad, timeout=5)) == (422, "INVALID_FIELD"), bad
        assert _code(requests.post(url, data=b"{", timeout=5)) == (400, "INVALID_JSON")
        bad_form = requests.put(url, files=first, data={"image": "{"}, timeout=20)
        assert _code(bad_form) == (400, "INVALID_JSON")
        assert requests.delete(url, timeout=5).status_code == 200


def test_pages(shared_platform: RunningPlatform) -> None:
    names = shared_platform.names()
    url = f"{shared_platform.url}/api/v1/models"
    page = requests.get(url, params={"limit": "2"}, timeout=5).json()
    assert (page["model_list"], page["next"]) == (names[:2], names[1])
    rest = requests.get(url, params={"after": page["next"]}, timeout=5).json()
    assert (rest["model_list"], "next" in rest) == (names[2:], False)
    information = requests.get(f"{url}/information", params={"limit": "1"}, timeout=5).json()
    assert [item["model"] for item in information["model_list"]] == names[:1]
    for limit in ("0", "-1", "x", "10001", "1e3", "²"):
        assert _code(requests.get(url, params={"limit": limit}, timeout=5)) == (400, "BAD_REQUEST"), limit
