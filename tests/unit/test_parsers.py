"""Row Z06 at the size of CI: our parsers, given anything, give what they promise or an error of ours, nothing else.

tests/unit/test_buffet.py, test_strict_json.py, test_manifest.py, test_names.py and test_forms.py do the same.
"""

import asyncio
import io
import json
import struct
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inferrer.routes.fields import parse_json
from mlbuffet.channel import FrameProtocol, Head, encode_frame
from mlbuffet.chassis.request import Request
from mlbuffet.chassis.wsgi import BodyStream
from mlbuffet.errors import InvalidJSONError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import image
from modelhost.codecs.request import Served
from modelhost.runtimes.onnx import DTYPES
from tests.harness.attempt import attempt


@pytest.fixture(scope="module", autouse=True)
def _errors_as_in_a_runner() -> Iterator[None]:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


class Collector(FrameProtocol):
    """Keeps what comes, and whether the stream was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, int, int, bytes, int, int, bytes]] = []
        self.ended = False

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:
        """Keep it."""
        _, kind, codec, _, split, frame_id, time_ns = head
        self.frames.append((kind, codec, split, key, frame_id, time_ns, body))

    def close(self) -> None:
        """Say so."""
        self.ended = True


frame = st.builds(
    lambda key, body, kind: encode_frame(kind, 0, 0, key, 1, 2, len(body)) + body,
    st.binary(max_size=20),
    st.binary(max_size=40),
    st.integers(0, 255),
)
short = st.integers(20, 60).flatmap(lambda size: st.binary(max_size=80).map(struct.pack("<I", size).__add__))
streams = st.lists(frame | short | st.binary(max_size=30), max_size=5).map(b"".join)


def received(stream: bytes, cuts: list[int]) -> tuple[list[tuple[int, int, int, bytes, int, int, bytes]], bool]:
    """What an end makes of a stream that comes in pieces; nothing comes after it has closed."""

    async def run() -> Collector:
        end = Collector()
        places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
        for start, stop in pairwise(places):
            if not end.ended:
                end.data_received(stream[start:stop])
        return end

    end = asyncio.run(run())
    return end.frames, end.ended


@given(streams, st.lists(st.integers(0, 500), max_size=20))
def test_z06_any_bytes_are_the_same_frames_however_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    assert received(stream, cuts) == received(stream, [])


def picture(kind: str, mode: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, kind)
    return file.getvalue()


PICTURES = [
    picture(kind, mode, size)
    for kind, mode in (("PNG", "L"), ("PNG", "RGBA"), ("PNG", "I;16"), ("BMP", "RGB"), ("JPEG", "RGB"), ("WEBP", "RGB"))
    for size in ((1, 1), (5, 3))
]
spoilt = st.tuples(st.sampled_from(PICTURES), st.integers(0, 500), st.binary(max_size=8)).map(
    lambda made: made[0][: made[1] % len(made[0])] + made[2] + made[0][made[1] % len(made[0]) + len(made[2]) :]
)
finite = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1e308, 1e-308, -1.0])
settings_of_images = st.fixed_dictionaries(
    {}, optional={"scale": finite, "mean": st.lists(finite, max_size=4), "std": st.lists(finite, max_size=4)}
)
shapes = st.sampled_from(
    [(None, 3, 4, 4), (1, 1, None, None), (None, 4, 6, 3), (2, 3, 0, 0), (None, 3), (None, 3, 4, 1)]
)


@given(
    spoilt | st.sampled_from(PICTURES) | st.binary(max_size=30),
    settings_of_images,
    shapes,
    st.sampled_from(sorted(DTYPES)),
)
def test_z06_any_picture_and_settings_are_an_array_or_an_error_of_ours(
    data: bytes, settings: dict[str, object], shape: tuple[int | None, ...], datatype: str
) -> None:
    taken = Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", "FP32", (None,)),))
    text = orjson.dumps({"image": settings})
    served = Served("m", 1, taken)
    decoded, error = attempt(lambda: image.decode(memoryview(text + data), len(text), served))
    if decoded is not None:
        array = decoded.feeds["x"]
        assert array.dtype == DTYPES[datatype]
        assert array.ndim == 4
        assert np.isfinite(array.astype(np.float64)).all()
    else:
        assert error is not None
        assert error.status in {400, 413, 415, 422}


@given(st.text('[]{}":,1a\\ ', max_size=60) | st.text(max_size=60))
def test_z06_any_text_is_json_for_the_routes_or_refused(text: str) -> None:
    parsed, error = attempt(lambda: parse_json(text.encode(errors="surrogatepass")))
    assert isinstance(error, InvalidJSONError) if error else json.loads(text) == parsed


@given(st.lists(st.binary(min_size=1, max_size=3) | st.binary(min_size=4096, max_size=5000), max_size=12))
def test_a_body_is_the_same_however_it_is_cut(chunks: list[bytes]) -> None:
    request, stream = Request(), BodyStream(lambda: None)
    for chunk in chunks:
        request.keep(chunk)
        stream.feed(chunk)
    stream.end()
    assert b"".join(request.body) == b"".join(chunks)
    assert stream.buffered == sum(map(len, chunks))
    assert stream.readall() == b"".join(chunks)


def test_p12_crumbs_take_no_objects_of_their_own_and_no_time() -> None:
    """Each as an object, these would take 30 MB; taken one by one from the front of a list, minutes."""
    request, stream = Request(), BodyStream(lambda: None)
    for _ in range(500_000):
        request.keep(b"ab")
        stream.feed(b"ab")
    stream.end()
    assert len(request.body) == 1
    assert stream.readall() == b"".join(request.body) == b"ab" * 500_000
