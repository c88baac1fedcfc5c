"""tritonclient over HTTP and over gRPC: the same calls, the same answers."""

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.clients.tensors import TENSORS, Tensor, same

PROTOCOLS = {
    "http": (tritonclient.http, os.environ["MLBUFFET_HTTP"]),
    "grpc": (tritonclient.grpc, os.environ["MLBUFFET_GRPC"]),
}
NOT_FOUND = {"404", "StatusCode.NOT_FOUND"}
INVALID = {"400", "StatusCode.INVALID_ARGUMENT"}
SOON_S = 10.0


class Connection:
    """One client with its module's own classes; answers as plain dicts, as HTTP has them."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.module, address = PROTOCOLS[protocol]
        self.client = self.module.InferenceServerClient(address)
        self._as_dict = {"as_json": True} if protocol == "grpc" else {}

    def ask(self, call: str, *arguments: str) -> Any:  # noqa: ANN401 - JSON of any shape
        """What is told about the server or a model."""
        return getattr(self.client, call)(*arguments, **self._as_dict)

    def tensor(self, name: str, value: Tensor, datatype: str) -> Any:  # noqa: ANN401 - either module's InferInput
        """One input."""
        made = self.module.InferInput(name, list(value.shape), datatype)
        made.set_data_from_numpy(value)
        return made

    def infer(self, model: str, inputs: dict[str, Tensor], **options: Any) -> Any:  # noqa: ANN401 - either module's InferResult
        """Predict; the datatype of each input is that of its array."""
        kinds = {name: tritonclient.utils.np_to_triton_dtype(value.dtype) for name, value in inputs.items()}
        tensors = [self.tensor(name, value, kinds[name]) for name, value in inputs.items()]
        return self.client.infer(model, tensors, **options)

    def only(self, *names: str) -> list[Any]:
        """A choice of outputs."""
        return [self.module.InferRequestedOutput(name) for name in names]


@pytest.fixture(scope="module", params=PROTOCOLS)
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    made = Connection(request.param)
    yield made
    made.client.close()


def rows(*values: float) -> Tensor:
    return np.array([values], np.float32)


def test_health(connection: Connection) -> None:
    client = connection.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("two")
    assert client.is_model_ready("two", "1")
    assert client.is_model_ready("iris.onnx")


def test_the_server_describes_itself(connection: Connection) -> None:
    described = connection.ask("get_server_metadata")
    assert described["name"] == "mlbuffet"
    assert described["version"]
    wanted = {"binary_tensor_data", "model_configuration", "model_repository", "statistics"}
    assert wanted <= set(described["extensions"])


@pytest.mark.parametrize("datatype", TENSORS)
def test_a_model_describes_itself(connection: Connection, datatype: str) -> None:
    described = connection.ask("get_model_metadata", datatype.lower())
    assert described["name"] == datatype.lower()
    assert described["versions"] == ["1"]
    assert described["platform"]
    for tensor, name in ((described["inputs"], "x"), (described["outputs"], "y")):
        assert [{**each, "shape": [int(axis) for axis in each["shape"]]} for each in tensor] == [
            {"name": name, "datatype": datatype, "shape": [-1, 2]}
        ]


@pytest.mark.parametrize("datatype", TENSORS)
def test_a_model_is_configured(connection: Connection, datatype: str) -> None:
    answer = connection.ask("get_model_config", datatype.lower())
    config = answer.get("config", answer)
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    dims = [2] if config.get("max_batch_size", 0) else [-1, 2]  # where rows are batched they are not in the shape
    assert config["name"] == datatype.lower()
    for tensors, name in ((config["input"], "x"), (config["output"], "y")):
        (tensor,) = tensors
        assert (tensor["name"], tensor["data_type"]) == (name, kind)
        assert [int(axis) for axis in tensor["dims"]] == dims


def test_statistics_count_for_all_processes_together(connection: Connection) -> None:
    def count() -> int:
        (statistics,) = connection.ask("get_inference_statistics", "counted", "1")["model_stats"]
        assert (statistics["name"], statistics["version"]) == ("counted", "1")
        counts = {key: int(value.get("count", 0)) for key, value in statistics["inference_stats"].items()}
        assert counts["queue"] == counts["success"]
        return counts["success"]

    before = count()
    for _ in range(20):
        with connection.module.InferenceServerClient(
            PROTOCOLS[connection.protocol][1]
        ) as client:  # perhaps another process
            client.infer("counted", [connection.tensor("x", rows(1, 2), "FP32")])
    ends_at = time.monotonic() + SOON_S
    while count() < before + 20 and time.monotonic() < ends_at:
        time.sleep(0.05)
    assert count() == before + 20
    assert "counted" in {each["name"] for each in connection.ask("get_inference_statistics")["model_stats"]}


def test_the_repository_is_listed(connection: Connection) -> None:
    answer = connection.ask("get_model_repository_index")
    listed = {each["name"]: each for each in (answer if isinstance(answer, list) else answer["models"])}
    assert {"iris.onnx", "two", "fp32"} <= set(listed)
    assert (listed["two"]["version"], listed["two"]["state"]) == ("1", "READY")


def test_a_model_is_unloaded_and_loaded(connection: Connection) -> None:
    client = connection.client
    client.load_model("spare")
    assert client.is_model_ready("spare")
    client.unload_model("spare")
    assert not client.is_model_ready("spare")
    with pytest.raises(InferenceServerException):
        connection.infer("spare", {"x": rows(1, 2)})
    client.load_model("spare")
    assert client.is_model_ready("spare")
    assert same(connection.infer("spare", {"x": rows(1, 2)}).as_numpy("y"), rows(1, 2))


@pytest.mark.parametrize(
    "call", ["get_model_metadata", "get_model_config", "get_inference_statistics", "load_model", "unload_model"]
)
def test_an_unknown_model_is_named(connection: Connection, call: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        getattr(connection.client, call)("nosuch")
    assert caught.value.status() in NOT_FOUND
    assert "nosuch" in caught.value.message()


def test_an_unknown_model_predicts_nothing(connection: Connection) -> None:
    with pytest.raises(InferenceServerException) as caught:
        connection.infer("nosuch", {"x": rows(1, 2)})
    assert caught.value.status() in NOT_FOUND
    assert "nosuch" in caught.value.message()


@pytest.mark.parametrize("datatype", TENSORS)
def test_every_datatype_comes_back_bit_for_bit(connection: Connection, datatype: str) -> None:
    sent = TENSORS[datatype]
    result = connection.infer(datatype.lower(), {"x": sent})
    assert same(result.as_numpy("y"), sent)
    assert result.get_output("y")["datatype"] == datatype if connection.protocol == "http" else True


def test_numbers_that_are_none_come_back(connection: Connection) -> None:
    sent = np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)
    assert same(connection.infer("fp32", {"x": sent}).as_numpy("y"), sent)


def test_no_rows_come_back(connection: Connection) -> None:
    received = connection.infer("fp32", {"x": np.empty((0, 2), np.float32)}).as_numpy("y")
    assert received.shape == (0, 2)


def test_outputs_are_chosen(connection: Connection) -> None:
    inputs = {"b": rows(1, 2), "a": rows(10, 20)}  # by name, whatever their order
    both = connection.infer("two", inputs)
    assert same(both.as_numpy("total"), rows(11, 22))
    assert same(both.as_numpy("difference"), rows(9, 18))
    one = connection.infer("two", inputs, outputs=connection.only("difference"))
    assert same(one.as_numpy("difference"), rows(9, 18))
    assert one.as_numpy("total") is None
    turned = connection.infer("two", inputs, outputs=connection.only("total", "difference"))
    assert same(turned.as_numpy("total"), rows(11, 22))
    assert same(turned.as_numpy("difference"), rows(9, 18))


def test_an_answer_says_whose_it_is(connection: Connection) -> None:
    response = connection.infer("two", {"a": rows(1, 2), "b": rows(1, 2)}, request_id="größe/1").get_response()
    said = (
        response
        if isinstance(response, dict)
        else {key: getattr(response, key) for key in ("model_name", "model_version", "id")}
    )
    assert (said["model_name"], said["model_version"], said["id"]) == ("two", "1", "größe/1")


def test_a_version_is_asked_for(connection: Connection) -> None:
    assert same(connection.infer("fp32", {"x": rows(1, 2)}, model_version="1").as_numpy("y"), rows(1, 2))
    with pytest.raises(InferenceServerException) as caught:
        connection.infer("fp32", {"x": rows(1, 2)}, model_version="99")
    assert caught.value.status() in NOT_FOUND


def test_parameters_that_mean_nothing_here_do_no_harm(connection: Connection) -> None:
    result = connection.infer(
        "fp32",
        {"x": rows(1, 2)},
        sequence_id=7,
        sequence_start=True,
        sequence_end=True,
        priority=1,
        timeout=60_000_000,
        parameters={"text": "a", "whole": 3, "part": 0.5, "yes": True},
    )
    assert same(result.as_numpy("y"), rows(1, 2))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"x": np.ones((1, 2), np.float64)}, ["y"]),
        ({"x": np.ones((1, 3), np.float32)}, ["y"]),
        ({"x": np.ones((1, 1, 2), np.float32)}, ["y"]),
        ({"z": np.ones((1, 2), np.float32)}, ["y"]),
        ({"x": np.ones((1, 2), np.float32), "z": np.ones((1, 2), np.float32)}, ["y"]),
        ({"x": np.ones((1, 2), np.float32)}, ["z"]),
    ],
    ids=["datatype", "shape", "rank", "name", "too many", "output"],
)
def test_what_does_not_fit_is_refused(connection: Connection, inputs: dict[str, Tensor], outputs: list[str]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        connection.infer("fp32", inputs, outputs=connection.only(*outputs))
    assert caught.value.status() in INVALID
    assert caught.value.message()


def test_shared_memory_is_refused(connection: Connection) -> None:
    tensor = connection.module.InferInput("x", [1, 2], "FP32")
    tensor.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException) as caught:
        connection.client.infer("fp32", [tensor])
    assert caught.value.status() in INVALID


def test_a_large_tensor_comes_back(connection: Connection) -> None:
    sent = np.random.default_rng(1).random((800_000, 2), np.float32)  # 6.4 MB: over gRPC's own limit of 4 MiB
    assert same(connection.infer("fp32", {"x": sent}).as_numpy("y"), sent)
