"""What a script leaves as a model goes through the door of every upload (ACCEPTANCE T08), or was never one."""

from collections.abc import Callable

import pytest
import requests

from tests.harness import hostile_models
from tests.harness.platform import wait_until
from tests.training.asking import MODEL
from tests.training.conftest import Trainer
from tests.training.host import left_of

NO_MODELS = {
    "none": "NO_MODEL",
    "folder": "NO_MODEL",
    "link": "NO_MODEL",
    "pipe": "NO_MODEL",
    "empty": "INVALID_MODEL",
    "text": "INVALID_MODEL",
    "huge": "TOO_LARGE",
}


def listed(trainer: Trainer) -> list[str]:
    """The models that there are."""
    names: list[str] = trainer.asking.get("models").json()["model_list"]
    return names


@pytest.fixture(scope="module")
def sent(trainer: Trainer) -> dict[str, str]:
    """All of them, sent at once."""
    asking = trainer.asking
    return {kind: asking.submit("models.py", kind=kind, model=f"{kind}.onnx") for kind in NO_MODELS}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_t08_what_is_no_model_is_not_registered(trainer: Trainer, sent: dict[str, str], kind: str) -> None:
    run = trainer.asking.ended(sent[kind])
    assert (run["state"], run["reason"]) == ("FAILED", NO_MODELS[kind])
    assert run["exit_code"] == 0
    assert run["model_version"] is None
    assert f"{kind}.onnx" in run["message"] or run["reason"] == "INVALID_MODEL"
    assert f"{kind}.onnx" not in listed(trainer)
    assert not run["retryable"]
    wait_until(lambda: left_of(trainer.node, sent[kind]) == [], 30, "nothing of it")


HOSTILE: dict[str, bytes | Callable[[], dict[str, bytes]]] = {
    "external data": hostile_models.external("../../../etc/passwd"),
    "floating point": hostile_models.broken_kernels,
    "function chain": hostile_models.function_chain(3000),
    "unknown operator": hostile_models.unknown_operators,
    "too complex": hostile_models.too_complex,
    "too large": hostile_models.too_large,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_t08_a_hostile_model_fails_with_the_doors_own_word(trainer: Trainer, name: str) -> None:
    """The same code as an upload of the same bytes by hand gets."""
    made = HOSTILE[name]
    data = made if isinstance(made, bytes) else min(made().values(), key=len)
    by_hand = trainer.platform.put("hostile.onnx", data)
    assert by_hand.status_code >= 400
    run = trainer.asking.ended(trainer.asking.submit("models.py", kind="dataset", model="hostile.onnx", dataset=data))
    assert (run["state"], run["reason"]) == ("FAILED", by_hand.json()["error"]["code"])
    assert "hostile.onnx" not in listed(trainer)


def test_t08_a_good_one_is(trainer: Trainer) -> None:
    """Or all of the above would say nothing; exactly one version, and the lineage both ways."""
    asking = trainer.asking
    run_id = asking.submit("models.py", kind="dataset", model="good.onnx", dataset=MODEL)
    run = asking.ended(run_id)
    assert (run["state"], run["model_version"]) == ("FINISHED", 1), run
    shown = asking.get("models/good.onnx").json()
    assert shown["version"] == 1
    assert shown["run"]["run_id"] == run_id
    requests.delete(f"{asking.url}/api/v1/models/good.onnx", timeout=10).raise_for_status()
