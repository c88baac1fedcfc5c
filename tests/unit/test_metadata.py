"""What the Open Inference Protocol tells of models: metadata, configuration, states, statistics."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from inferrer.metadata import model_configuration, model_metadata, repository_index
from inferrer.states import check_ready, state_of
from inferrer.stats import model_statistics
from mlbuffet.errors import ModelQuarantinedError, ModelUnloadedError, NotLoadedError, UnavailableError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest, ServingSettings, Signature, TensorSpec

Shape = tuple[int | None, ...]


def made(inputs: Shape = (None, 4), outputs: Shape = (None, 3), *, version: int = 1, **fields: Any) -> Manifest:  # noqa: ANN401
    signature = Signature((TensorSpec("x", "FP32", inputs),), (TensorSpec("y", "BYTES", outputs),))
    digest = f"sha256:{version:064x}"
    return Manifest("m", version, digest, 1, "2026-01-01", "upload", signature, **fields)


@dataclass
class Host:
    """What is looked at of a replica."""

    versions: dict[str, list[Any]] = field(default_factory=dict)


def hosts(manifest: Manifest, *told: list[Any] | None) -> Any:  # noqa: ANN401 - stands for the real ones
    key = manifest.key.decode()
    return cast("Any", [Host({} if item is None else {key: item}) for item in told])


READY = ["READY", "", ""]
LOADING = ["LOADING", "", ""]
BAD = ["QUARANTINED", "MODEL_QUARANTINED", "it ended its process"]


def test_metadata_names_versions_as_text_and_any_length_as_minus_one() -> None:
    entry = ModelEntry("m", 10, {number: made(version=number) for number in (10, 2)})
    data = model_metadata(entry, entry.manifest)
    assert data["versions"] == ["2", "10"]
    assert data["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert data["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [-1, 3]}]


@pytest.mark.parametrize(
    ("inputs", "outputs", "most", "dims"),
    [
        ((None, 4), (None, 3), 1024, ([4], [3])),
        ((None, None, 2), (None,), 1024, ([-1, 2], [1])),
        ((None,), (None,), 0, ([-1], [-1])),
        ((2, 4), (2, 3), 0, ([2, 4], [2, 3])),
        ((None, 4), (3,), 0, ([-1, 4], [3])),
        ((), (), 0, ([1], [1])),
    ],
)
def test_where_a_batch_is_possible_shapes_are_of_one_row(
    inputs: Shape, outputs: Shape, most: int, dims: tuple[list[int], list[int]]
) -> None:
    data: Any = model_configuration(made(inputs, outputs), [])
    assert data["max_batch_size"] == most
    assert (data["input"][0]["dims"], data["output"][0]["dims"]) == dims
    assert (data["input"][0]["data_type"], data["output"][0]["data_type"]) == ("TYPE_FP32", "TYPE_STRING")
    scalar = [not spec[1:] if most else not spec for spec in (inputs, outputs)]
    assert [item.get("reshape") for item in (data["input"][0], data["output"][0])] == [
        {"shape": []} if it else None for it in scalar
    ]


def test_the_operators_settings_stand_in_the_configuration() -> None:
    manifest = made(serving=ServingSettings(batch_rows=8, runners=3, cache=True))
    three = ["READY", "", "", {"runners": 3, "threads": 1}]
    data: Any = model_configuration(manifest, hosts(manifest, three, three, LOADING, READY))
    assert data["max_batch_size"] == 8
    assert data["instance_group"][0]["count"] == 7
    assert data["response_cache"] == {"enable": True}


@pytest.mark.parametrize(
    ("told", "state", "error"),
    [
        ([READY, BAD], "READY", None),
        ([LOADING, None], "LOADING", NotLoadedError),
        ([None], "UNAVAILABLE", NotLoadedError),
        ([BAD, None], "QUARANTINED", ModelQuarantinedError),
        ([], "UNAVAILABLE", UnavailableError),
    ],
)
def test_a_version_is_as_ready_as_the_best_modelhost_says(
    told: list[list[str] | None], state: str, error: type[UnavailableError] | None
) -> None:
    manifest = made()
    assert state_of(manifest, hosts(manifest, *told)).state == state
    if error is None:
        check_ready(manifest, hosts(manifest, *told))
    else:
        with pytest.raises(error):
            check_ready(manifest, hosts(manifest, *told))


def test_what_an_operator_unloaded_is_unavailable_whatever_modelhosts_say() -> None:
    manifest = made(unloaded=True)
    with pytest.raises(ModelUnloadedError):
        check_ready(manifest, hosts(manifest, READY))
    index = repository_index({"m": ModelEntry("m", 1, {1: manifest})}, hosts(manifest, READY), ready=False)
    assert index == [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]


def test_the_index_has_triton_s_states_only() -> None:
    versions = {1: made(), 2: made(version=2)}
    models = {"m": ModelEntry("m", 2, versions)}
    replicas = cast("Any", [Host({versions[1].key.decode(): READY, versions[2].key.decode(): BAD})])
    rows = repository_index(models, replicas, ready=False)
    assert [(row["version"], row["state"]) for row in rows] == [("1", "READY"), ("2", "UNAVAILABLE")]
    assert repository_index(models, replicas, ready=True) == rows[:1]


def told(version: int, scale: int) -> dict[str, object]:
    durations = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "model": "m",
        "version": version,
        "inference_count": 3 * scale,
        "execution_count": scale,
        "last_inference_ms": 1000 + scale,
        **{name: {"count": scale, "ns": 10 * scale} for name in durations},
    }


def test_statistics_are_summed_over_the_modelhosts() -> None:
    rows: Any = model_statistics([made(), made(version=2)], [told(1, 1), told(1, 5), told(7, 9)])
    one, two = rows
    assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("m", "1", 18, 6)
    assert one["last_inference"] == 1005
    assert one["inference_stats"]["compute_infer"] == {"count": 6, "ns": 60}
    assert one["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
    assert (two["version"], two["inference_count"], two["last_inference"], two["batch_stats"]) == ("2", 0, 0, [])
    assert list(two["inference_stats"]) == list(one["inference_stats"])
