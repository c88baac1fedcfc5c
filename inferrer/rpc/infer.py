"""ModelInfer: the message goes on to the modelhost unread, but for the model's name and version."""

import asyncio

from google.protobuf.message import DecodeError

from inferrer.call import Call
from inferrer.rpc.calls import RpcCall
from inferrer.services import Services
from mlbuffet.channel import Codec, Payload
from mlbuffet.errors import BadRequestError, MLBuffetError
from mlbuffet.oip.envelope_pb2 import InferEnvelope

_LONGEST_S = 3600.0  # as HTTP's field for it


class ModelInfer:
    """Predictions by gRPC."""

    def __init__(self, services: Services) -> None:
        self._dataplane = services.dataplane
        self._timeout_s = services.settings.timeout_s
        self._loop = asyncio.get_running_loop()

    async def __call__(self, body: bytes, call: RpcCall) -> bytes:
        """Send a prediction and wait for its answer; give it up when the client does.

        Raises:
            MLBuffetError: what the client is to be told.
        """
        name, ref = read_ref(body)
        call.model = name if name in self._dataplane.index.models() else ""
        answer: asyncio.Future[bytes] = self._loop.create_future()

        def done(error: MLBuffetError | None, reply: bytes, _: Call) -> None:
            if answer.done():
                return  # cancelled in this very turn of the loop
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(reply)

        sent = self._dataplane.start(
            ref, Payload(Codec.OIP_GRPC, 0, body), self._allowed_s(call), done, call.asked.line
        )
        try:
            return await answer
        except asyncio.CancelledError:
            self._dataplane.cancel(sent)
            raise

    def _allowed_s(self, call: RpcCall) -> float:
        """Seconds that the prediction may take: the client's deadline, where it has one."""
        remaining_s = call.remaining_s()
        return self._timeout_s if remaining_s is None else min(remaining_s, _LONGEST_S)


def read_ref(body: bytes) -> tuple[str, bytes]:
    """The model's name, and the name with the version where one is asked for. Pure.

    Raises:
        BadRequestError: this is no ModelInferRequest.
    """
    try:
        envelope = InferEnvelope.FromString(body)
    except DecodeError:
        msg = "the message is not a ModelInferRequest"
        raise BadRequestError(msg) from None
    name: str = envelope.model_name
    version: str = envelope.model_version
    return name, f"{name}:{version}".encode() if version else name.encode()
