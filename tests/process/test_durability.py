"""What was acknowledged is kept: power cuts (U15), full disks (U16), bit rot (U17), read-only volumes (U20), kills."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import requests

from tests.harness import onnx_models
from tests.harness.acknowledged import answer, lost_by_power_cuts, make_default
from tests.harness.faults import Killer, filled, flip_bit, kill, read_only, volume
from tests.harness.invariants import check_repository, golden, hosted, leftovers, modelhost_url, unharmed
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.upload_client import RawClient

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
# The server was killed before, or in the middle of, its answer.
NO_ANSWER = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


# U15: a power cut ----------------------------------------------------------------------------------------------------


def test_u15_power_cut_after_each_acknowledged_change(tmp_path: Path) -> None:
    assert not lost_by_power_cuts(tmp_path)


# U16 and U20: a full or read-only volume -----------------------------------------------------------------------------


def test_u16_disk_full(tmp_path: Path) -> None:
    model = onnx_models.constant(2, padding_bytes=1 << 20)
    with volume(tmp_path / "volume", 16 << 20) as root, running_platform(root) as platform, unharmed(platform):
        assert platform.put("old.onnx", onnx_models.constant(1)).status_code == 201
        assert platform.put("old.onnx", onnx_models.constant(11)).status_code == 201
        assert platform.put("spare.onnx", onnx_models.constant(3)).status_code == 201
        needed = -(-len(model) // 4096) * 4096
        for free_bytes in (int(needed * 0.3), int(needed * 0.6), int(needed * 0.99), needed, needed + 4096):
            with filled(root, free_bytes=free_bytes):
                response = platform.put("old.onnx", model)
                # The pages: the model's, one for the manifest, one for the pointer.
                assert (response.status_code, response.json()["error"]["code"]) == (507, "STORAGE_FULL"), free_bytes
                response = platform.put("new.onnx", model)
                assert response.status_code == 507
                assert answer(platform, "old.onnx") == 11
                assert not (root / "new.onnx").exists()
                assert sorted(item.name for item in (root / "old.onnx").iterdir()) == ["1", "2", "default"]
                wait_until(lambda: not platform.staged())
        with filled(root):
            assert make_default(platform, "old.onnx", 1).status_code == 507
            assert answer(platform, "old.onnx") == 11
            described = requests.post(platform.path("old.onnx"), json={"model_description": "x"}, timeout=10)
            assert described.status_code == 507
            assert requests.delete(platform.path("spare.onnx"), timeout=10).status_code == 200
            with filled(root):  # what that gave back
                assert requests.delete(platform.path("old.onnx:1"), timeout=10).status_code == 200
        recovered = platform.put("old.onnx", model)
        assert (recovered.status_code, recovered.json()["version"]) == (201, 3)
        assert answer(platform, "old.onnx") == 2
        assert requests.delete(platform.path("old.onnx"), timeout=10).status_code == 200


def test_u16_the_highest_version_can_be_deleted_when_the_disk_is_full(tmp_path: Path) -> None:
    with volume(tmp_path / "volume", 4 << 20) as root, running_platform(root) as platform, unharmed(platform):
        for value in (1, 2):
            assert platform.put("m.onnx", onnx_models.constant(value)).status_code == 201
        assert make_default(platform, "m.onnx", 1).status_code == 200
        with filled(root):
            assert requests.delete(platform.path("m.onnx:2"), timeout=10).status_code == 200
        assert platform.put("m.onnx", onnx_models.constant(3)).json()["version"] == 3
        assert requests.delete(platform.path("m.onnx"), timeout=10).status_code == 200


def test_u20_read_only_volume(tmp_path: Path) -> None:
    read_only_s = 60 if SOAK else 3

    with volume(tmp_path / "volume", 16 << 20) as root, running_platform(root) as platform, unharmed(platform):
        assert platform.put("m.onnx", onnx_models.constant(1)).status_code == 201
        assert platform.put("m.onnx", onnx_models.constant(2)).status_code == 201
        with read_only(root):
            ends_at = time.monotonic() + read_only_s
            while time.monotonic() < ends_at:
                writes = [
                    platform.put("m.onnx", onnx_models.constant(3)),
                    platform.put("new.onnx", onnx_models.constant(3)),
                    make_default(platform, "m.onnx", 1),
                    requests.post(platform.path("m.onnx"), json={"pinned": True}, timeout=10),
                    requests.delete(platform.path("m.onnx"), timeout=10),
                    requests.delete(platform.path("m.onnx:1"), timeout=10),
                    requests.get(f"{platform.url}/api/v1/updatemodels", timeout=10),
                ]
                refused = [(item.status_code, item.json()["error"]["code"]) for item in writes]
                assert refused == [(503, "STORAGE_UNAVAILABLE")] * len(writes)
                assert all("Retry-After" in item.headers for item in writes)
                for _ in range(10):
                    assert answer(platform, "m.onnx") == 2
            # Whoever dies meanwhile comes back.
            kill(platform.children("inferrer")[0])
            platform.restart("modelhost-1")
            assert answer(platform, "m.onnx") == 2
        assert platform.put("m.onnx", onnx_models.constant(3)).status_code == 201
        assert requests.delete(platform.path("m.onnx"), timeout=10).status_code == 200


# U17: bit rot --------------------------------------------------------------------------------------------------------


def _corrupt_metric(platform: RunningPlatform, host: str, name: str) -> bool:
    text = requests.get(f"{modelhost_url(platform, host)}/metrics", timeout=10).text
    return f'modelhost_version_corrupt{{model="{name}",version="1"}} 1.0' in text


def test_u17_one_flipped_bit(platform: RunningPlatform) -> None:
    rng = random.Random(17)  # noqa: S311 - repeatable
    with unharmed(platform, corrupt={"wine.onnx"}, resources=False):
        values = [[13.0, 2.0, 2.4, 19, 100, 2.5, 2.6, 0.3, 1.6, 5.0, 1.0, 2.8, 800]]
        good = platform.predict("wine.onnx", values)
        assert good.status_code == 200
        flip_bit(platform.repository / "wine.onnx" / "1" / "model.onnx", rng)
        platform.restart("modelhost-1")
        wait_until(lambda: _corrupt_metric(platform, "modelhost-1", "wine.onnx"), what="the metric being raised")
        for _ in range(20):  # the other one still holds the good bytes in memory
            assert platform.predict("wine.onnx", values).content == good.content
        platform.restart("modelhost-2")
        wait_until(lambda: _corrupt_metric(platform, "modelhost-2", "wine.onnx"), what="the metric being raised")
        for _ in range(20):
            response = platform.predict("wine.onnx", values)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "MODEL_CORRUPT")
        states = {item["model"]: item["state"] for item in hosted(platform, "modelhost-1")}
        assert states.pop("wine.onnx") == "UNAVAILABLE"
        assert set(states.values()) == {"READY"}
        # A new upload mends it.
        good_file = (Path(__file__).parents[2] / "models/wine.onnx/1/model.onnx").read_bytes()
        other = platform.put("mended.onnx", good_file)
        assert other.status_code == 201
        assert platform.predict("mended.onnx", values).content == good.content
        assert requests.delete(platform.path("mended.onnx"), timeout=10).status_code == 200


def test_u17_the_bytes_of_a_corrupt_file_are_not_handed_out(platform: RunningPlatform) -> None:
    with unharmed(platform, corrupt={"wine.onnx"}):
        file = platform.repository / "wine.onnx" / "1" / "model.onnx"
        file.write_bytes(file.read_bytes()[:-1])
        response = requests.get(f"{platform.path('wine.onnx')}/download", timeout=10)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "MODEL_CORRUPT")
        file.unlink()
        response = requests.get(f"{platform.path('wine.onnx')}/download", timeout=10)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "MODEL_CORRUPT")


# kill -9 -------------------------------------------------------------------------------------------------------------


def test_kill_9_of_any_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(9)  # noqa: S311 - repeatable
    names = ["k1.onnx", "k2.onnx", "k3.onnx"]
    possible: dict[str, set[float | None]] = {name: {None} for name in names}  # what a model may answer; None: no model
    with running_platform(tmp_path / "repository", environment={"INFERRER_SWEEP_S": "1"}) as platform:
        with Killer(platform, 9) as killer:
            ends_at = time.monotonic() + (120 if SOAK else 15)
            value, done = 0, 0
            while time.monotonic() < ends_at or done < 5:
                assert time.monotonic() < ends_at + 30, f"only {done} changes were acknowledged"
                name, value = rng.choice(names), value + 1
                with contextlib.suppress(*NO_ANSWER):
                    done += _change(platform, name, value, possible, rng)
        wait_until(lambda: _is_up(platform, killer), 80, lambda: _seen(platform, killer))
        # A version whose upload died before it became the default is adopted by whoever starts next, or by this.
        wait_until(lambda: requests.get(f"{platform.url}/api/v1/updatemodels", timeout=60).ok, 40, "the adoption")
        for name, values in possible.items():
            answers = {answer(platform, name) if name in platform.names() else None for _ in range(8)}
            assert len(answers) == 1, (name, answers, killer.killed)
            assert answers <= values, (name, answers, values, killer.killed)
        check_repository(platform.repository)
        wait_until(lambda: not leftovers(platform.repository), 20, f"no leftovers: {leftovers(platform.repository)}")
        wait_until(lambda: _is_up(platform, killer) and _uploads(platform), 40, "an upload being taken")
        assert answer(platform, "after.onnx") == 5
        golden(platform)


def _uploads(platform: RunningPlatform) -> bool:
    taken = platform.put("after.onnx", onnx_models.constant(5))
    assert taken.status_code in {200, 201, 503}, taken.text
    return taken.ok


def _is_up(platform: RunningPlatform, killer: Killer) -> bool:
    """Tell whether all modelhosts are ready; one whose fork server was killed last may end only now."""
    killer.revive()
    with contextlib.suppress(requests.RequestException):
        return platform.sees(2)
    return False


def _seen(platform: RunningPlatform, killer: Killer) -> str:
    """What there is to see of a platform that is not up again."""
    logs = "\n".join(f"{name}: {platform.log_file(name).read_text()[-2000:]}" for name in platform.processes)
    return f"the platform being up again\n{killer.killed}\n{logs}"


def _change(
    platform: RunningPlatform, name: str, value: int, possible: dict[str, set[float | None]], rng: random.Random
) -> int:
    """Try one change; what may be the case is one value once it is acknowledged, and one more until then."""
    kind = rng.choice(["put", "put", "put", "roll back", "delete"])
    outcome: float | None = None
    if kind == "put":
        outcome = float(value)
        possible[name].add(outcome)
        response = platform.put(name, onnx_models.constant(value))
    elif kind == "delete":
        possible[name].add(None)
        response = requests.delete(platform.path(name), timeout=60)
    else:
        shown = requests.get(platform.path(name), timeout=20)
        if shown.status_code != 200:
            return 0
        version = rng.choice(shown.json()["versions"])["version"]
        asked = platform.predict(f"{name}:{version}", [0])
        if asked.status_code != 200:
            return 0
        outcome = asked.json()["values"][0][0]
        possible[name].add(outcome)
        response = make_default(platform, name, version)
    if response.status_code not in {200, 201}:
        killed = response.status_code == 422 and f"status {-signal.SIGKILL}" in response.text  # the check of a file
        assert killed or response.status_code in {404, 409, 503}, response.text
        return 0
    possible[name] = {outcome}
    return 1


def test_leftovers_of_dead_processes_are_removed_without_a_restart(tmp_path: Path) -> None:
    settings = {"INFERRER_SWEEP_S": "1"}
    with running_platform(tmp_path / "repository", workers=1, environment=settings) as platform:
        with RawClient(platform) as client:
            client.put("cut.onnx", 1 << 20)
            client.send(bytes(1 << 19))
            wait_until(platform.staged, what="the upload being written")
            kill(platform.children("inferrer")[0])
        private = platform.repository / ".mlbuffet"
        (private / "staging" / "0123").write_bytes(b"a pointer that was being written")
        (private / "locks" / "dead.onnx").touch()
        assert leftovers(platform.repository)
        wait_until(lambda: not leftovers(platform.repository), 20, "the leftovers being gone")
        platform.wait_ready()


def test_an_upload_in_progress_is_no_leftover(tmp_path: Path) -> None:
    model = onnx_models.constant(6, padding_bytes=1 << 20)
    with (
        running_platform(tmp_path / "repository", environment={"INFERRER_SWEEP_S": "0.2"}) as platform,
        unharmed(platform),
    ):
        with RawClient(platform) as client:
            client.put("slowly.onnx", len(model))
            for start in range(0, len(model), len(model) // 8):
                client.send(model[start : start + len(model) // 8])
                time.sleep(0.25)  # older than the sweep's age by far
            status, _ = client.answer()
        assert status == 201
        assert requests.delete(platform.path("slowly.onnx"), timeout=10).status_code == 200
