"""Files changed by hand in the repository folder: adopted, reported or forgotten."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from tests.harness import onnx_models
from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform, running_platform, wait_until

DESCRIPTION = "größer · 虹膜 · ✓ \u202eoversized"


def _update(platform: RunningPlatform) -> dict[str, Any]:
    response = requests.get(f"{platform.url}/api/v1/updatemodels", timeout=30)
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def _answer(platform: RunningPlatform, name: str) -> object:
    response = platform.predict(name, [0])
    return response.json()["values"][0][0] if response.status_code == 200 else response.json()["error"]["code"]


def test_flat_file_becomes_version_1(platform: RunningPlatform) -> None:
    data = onnx_models.constant(1)
    with unharmed(platform, models=[*platform.names(), "flat.onnx"], resources=False):
        (platform.repository / "flat.onnx").write_bytes(data)
        report = _update(platform)
        assert (report["adopted"], report["refused"]) == (["flat.onnx:1"], [])
        assert [_answer(platform, "flat.onnx") for _ in range(6)] == [1.0] * 6
        shown = requests.get(platform.path("flat.onnx"), timeout=5).json()
        assert (shown["version"], shown["source"]) == (1, "adopted file")
        assert not (platform.repository / "flat.onnx.adopting").exists()
        assert _update(platform)["adopted"] == []


def test_flat_file_is_adopted_at_start(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "early.onnx").write_bytes(onnx_models.constant(2))
    (repository / "interrupted.onnx.adopting").write_bytes(onnx_models.constant(3))
    with running_platform(repository) as platform:
        wait_until(lambda: {"early.onnx", "interrupted.onnx"} <= set(platform.names()), what="the files being adopted")
        assert _answer(platform, "early.onnx") == 2
        assert _answer(platform, "interrupted.onnx") == 3


def test_invalid_file_is_reported_and_stays(platform: RunningPlatform) -> None:
    with unharmed(platform, resources=False):
        bad = platform.repository / "bad.onnx"
        bad.write_bytes(b"no model")
        (platform.repository / "-strange name").write_bytes(b"no model")
        (platform.repository / "weights.pt").write_bytes(b"no model")
        refused = {item["file"]: item["code"] for item in _update(platform)["refused"]}
        assert refused == {
            "bad.onnx": "INVALID_MODEL",
            "-strange name": "INVALID_NAME",
            "weights.pt": "UNSUPPORTED_TYPE",
        }
        assert bad.read_bytes() == b"no model"
        uploaded = platform.put("bad.onnx", onnx_models.constant(1))
        assert (uploaded.status_code, uploaded.json()["error"]["code"]) == (409, "NAME_CONFLICT")
        bad.write_bytes(onnx_models.constant(1))
        assert _update(platform)["adopted"] == ["bad.onnx:1"]
        assert requests.delete(platform.path("bad.onnx"), timeout=10).status_code == 200


def test_an_interrupted_adoption_does_not_undo_an_upload(platform: RunningPlatform) -> None:
    with unharmed(platform, models=[*platform.names(), "m.onnx"], resources=False):
        assert platform.put("m.onnx", onnx_models.constant(1)).status_code == 201
        assert platform.put("m.onnx", onnx_models.constant(2)).status_code == 201
        aside = platform.repository / "m.onnx.adopting"
        aside.write_bytes(onnx_models.constant(1))  # published, and then the power went
        assert _update(platform)["adopted"] == []
        assert not aside.exists()
        assert _answer(platform, "m.onnx") == 2
        aside.write_bytes(onnx_models.constant(3))
        assert [item["code"] for item in _update(platform)["refused"]] == ["NAME_CONFLICT"]
        assert aside.exists()
        assert _answer(platform, "m.onnx") == 2


def test_version_folders_without_manifest(platform: RunningPlatform) -> None:
    with unharmed(platform, models=[*platform.names(), "triton"], resources=False):
        for version in (2, 10):
            folder = platform.repository / "triton" / str(version)
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(onnx_models.constant(version))
        (platform.repository / "triton" / "config.pbtxt").touch()
        adopted = _update(platform)["adopted"]
        assert sorted(adopted) == ["triton:10", "triton:2"]
        shown = requests.get(platform.path("triton"), timeout=5).json()
        assert [item["version"] for item in shown["versions"]] == [2, 10]
        assert _answer(platform, "triton:2") == 2
        assert _answer(platform, "triton:10") == 10
        assert platform.put("triton", onnx_models.constant(11)).json()["version"] == 11
        (platform.repository / "triton" / "config.pbtxt").unlink()


def test_copied_folder_is_a_model_of_its_own(platform: RunningPlatform) -> None:
    with unharmed(platform, models=[*platform.names(), "copy.onnx"], resources=False):
        shutil.copytree(platform.repository / "iris.onnx", platform.repository / "copy.onnx")
        _update(platform)
        described = requests.post(platform.path("copy.onnx"), json={"model_description": "copy"}, timeout=10)
        assert (described.status_code, described.json()["model"]) == (200, "copy.onnx")
        assert requests.get(platform.path("iris.onnx"), timeout=5).json()["description"] != "copy"
        assert platform.predict("copy.onnx", [7.0, 3.2, 4.7, 1.4]).json()["values"] == [1]


def test_removed_folder_is_forgotten_and_changed_files_are_named(platform: RunningPlatform) -> None:
    names = [name for name in platform.names() if name != "wine.onnx"]
    with unharmed(platform, models=names, corrupt={"digits.onnx"}, resources=False):
        shutil.rmtree(platform.repository / "wine.onnx")
        file = platform.repository / "digits.onnx" / "1" / "model.onnx"
        file.write_bytes(file.read_bytes() + b"more")
        report = _update(platform)
        assert (report["forgotten"], report["changed"]) == (["wine.onnx"], ["digits.onnx:1"])
        assert {_answer(platform, "wine.onnx") for _ in range(6)} == {"MODEL_NOT_FOUND"}


def test_a_folder_removed_by_hand_can_still_be_deleted(platform: RunningPlatform) -> None:
    names = [name for name in platform.names() if name != "wine.onnx"]
    with unharmed(platform, models=names, resources=False):
        shutil.rmtree(platform.repository / "wine.onnx")
        described = requests.post(platform.path("wine.onnx"), json={"model_description": "gone"}, timeout=10)
        assert described.status_code == 503
        assert requests.delete(platform.path("wine.onnx"), timeout=10).status_code == 200


def test_a_model_without_its_pointer_gets_its_newest_version_back(platform: RunningPlatform) -> None:
    with unharmed(platform, resources=False):
        (platform.repository / "iris.onnx" / "default").unlink()
        assert _update(platform)["adopted"] == ["iris.onnx:1"]


def test_two_adoptions_at_once(platform: RunningPlatform) -> None:
    with unharmed(platform, models=[*platform.names(), *(f"f{n}.onnx" for n in range(5))], resources=False):
        for number in range(5):
            (platform.repository / f"f{number}.onnx").write_bytes(onnx_models.constant(number))
        with ThreadPoolExecutor(4) as pool:
            reports = list(pool.map(lambda _: _update(platform), range(4)))
        adopted = [name for report in reports for name in report["adopted"]]
        assert sorted(adopted) == [f"f{number}.onnx:1" for number in range(5)]
        assert not any(report["refused"] for report in reports)


def test_descriptions_survive_a_restart(platform: RunningPlatform) -> None:
    changed = requests.post(platform.path("iris.onnx"), json={"model_description": DESCRIPTION}, timeout=10)
    assert changed.status_code == 200
    form = {"model_description": DESCRIPTION}
    files = {"path": onnx_models.constant(1)}
    assert requests.put(platform.path("new.onnx"), files=files, data=form, timeout=20).status_code == 201
    platform.restart("inferrer")
    for name in ("iris.onnx", "new.onnx"):
        assert requests.get(platform.path(name), timeout=5).json()["description"] == DESCRIPTION
    information = requests.get(f"{platform.url}/api/v1/models/information", timeout=5).json()["model_list"]
    assert {item["model"]: item["description"] for item in information}["new.onnx"] == DESCRIPTION
