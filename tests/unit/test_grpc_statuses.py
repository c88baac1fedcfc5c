"""Each error has a status of gRPC's, and says in trailing metadata what HTTP says in header fields."""

import subprocess
import sys
from pathlib import Path

import pytest
from grpc import StatusCode

from inferrer.rpc.infer import read_ref
from inferrer.rpc.port import hold
from inferrer.rpc.statuses import status_of, trailers_of
from mlbuffet import errors
from mlbuffet.errors import MLBuffetError, all_errors
from mlbuffet.oip.inference_pb2 import ModelInferRequest
from tests.harness.platform import ROOT, free_port


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.code)
def test_every_error_has_a_status(error: type[MLBuffetError]) -> None:
    status = status_of(error("why"))
    assert status not in {StatusCode.OK, StatusCode.UNKNOWN, StatusCode.CANCELLED}
    assert (status is StatusCode.UNAVAILABLE) == (error.status == 503)  # which clients send again by themselves
    trailers = dict(trailers_of(error("why"), "id"))
    assert trailers.pop("x-request-id") == "id"
    assert trailers.pop("x-error-code") == error.code
    assert trailers == ({"retry-after": str(error.retry_after_s)} if error.retry_after_s else {})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.MLBuffetError, StatusCode.INTERNAL),
        (errors.BadRequestError, StatusCode.INVALID_ARGUMENT),
        (errors.ModelNotFoundError, StatusCode.NOT_FOUND),
        (errors.ModelBusyError, StatusCode.ABORTED),
        (errors.NameConflictError, StatusCode.FAILED_PRECONDITION),
        (errors.TooLargeError, StatusCode.RESOURCE_EXHAUSTED),
        (errors.BusyError, StatusCode.UNAVAILABLE),
        (errors.DeadlineExceededError, StatusCode.DEADLINE_EXCEEDED),
        (errors.ResourceLimitError, StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_these_statuses(error: type[MLBuffetError], status: StatusCode) -> None:
    assert status_of(error("why")) is status


def test_the_envelope_is_read_whatever_follows_and_wherever_it_stands() -> None:
    request = ModelInferRequest(model_name="a", raw_input_contents=[bytes(100)])
    assert read_ref(request.SerializeToString()) == ("a", b"a")
    request.model_version = "2"
    assert read_ref(request.SerializeToString()) == ("a", b"a:2")
    tensors_first = ModelInferRequest(raw_input_contents=[b"x"]).SerializeToString()
    assert read_ref(tensors_first + request.SerializeToString()) == ("a", b"a:2")
    for garbage in (b"\x0a", b"\x0a\xff\xff", b"\x0a\x02\xff\xfe", b"\xff" * 20, b"\x0b"):
        with pytest.raises(errors.BadRequestError):
            read_ref(garbage)


def test_a_port_is_held_against_others_and_shared_with_none_of_them() -> None:
    port = free_port()
    with hold("127.0.0.1", port, 0), pytest.raises(OSError, match="in use"):
        hold("127.0.0.1", port, 0)
    hold("127.0.0.1", port, 0).close()


def test_what_protoc_has_written_is_what_it_would_write_now(tmp_path: Path) -> None:
    sources = [f"mlbuffet/oip/{name}.proto" for name in ("inference", "envelope")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *sources], cwd=ROOT, check=True)
    for written in (tmp_path / "mlbuffet" / "oip").iterdir():
        kept = ROOT / "mlbuffet" / "oip" / written.name
        assert kept.read_text() == written.read_text(), f"make proto: {written.name} is not what its source says"
