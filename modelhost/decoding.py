"""Requests that a runner has taken, from frames to arrays: large ones one by one, short ones together.

To read short ones together, they are held until there is no more, or enough to run. A codec's bug, or a request that is
wrong, ends in an answer of its own and takes nothing out of service.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np

from mlbuffet.blocking import Frame
from mlbuffet.channel import SHARED, Codec, Kind
from mlbuffet.errors import BadRequestError, DeadlineExceededError
from modelhost.codecs import buffet, image, kserve, oip, oip_grpc
from modelhost.codecs.numbers import LONG_BYTES
from modelhost.codecs.request import Decoded, Served
from modelhost.codecs.together import Joint, Outline, read_together
from modelhost.mappings import Mappings
from modelhost.progress import Progress

_CODECS: Mapping[int, Callable[[memoryview, int, Served], Decoded]] = {
    Codec.BUFFET: buffet.decode,
    Codec.IMAGE: image.decode,
    Codec.KSERVE: kserve.decode,
    Codec.OIP: oip.decode,
    Codec.OIP_RAW: oip.decode_raw,
    Codec.OIP_GRPC: oip_grpc.decode,
}
_OUTLINES: Mapping[int, Callable[[memoryview, Served], Outline | None]] = {
    Codec.BUFFET: buffet.outline,
    Codec.OIP: oip.outline,
}
_PREDICT = Kind.PREDICT.value
_WORTH_JOINING = 4  # to read fewer together takes as long
TOO_LATE = "the request waited until its time was over"


class Job:
    """A request whose body is decoded, alone or with others."""

    __slots__ = ("deadline_ns", "fits", "number", "place", "read", "rows")

    def __init__(
        self, frame: Frame, read: Decoded | Joint, rows: int = 1, fits: Hashable = None, place: int = 0
    ) -> None:
        _, _, _, self.number, self.deadline_ns, _ = frame
        self.read = read
        self.place = place  # among those that it was read with
        self.rows = rows  # observations, by its first input
        self.fits = fits  # what it has to share with others to run with them; None when it runs alone

    @property
    def request(self) -> Decoded:
        """It alone."""
        return self.read.some(self.place, 1)


def joined(batch: Sequence[Job]) -> Decoded:
    """Requests that run together, as one; its `encode_rows` is none where their answers are to be made one by one."""
    first, last = batch[0], batch[-1]
    if first.read is last.read:  # and so were all between them: they stand together already
        alike = True
        request = first.read.some(first.place, len(batch))
    else:
        requests = [job.request for job in batch]
        alike = all(request.encode_rows is requests[0].encode_rows for request in requests)
        feeds = {name: np.concatenate([request.feeds[name] for request in requests]) for name in requests[0].feeds}
        request = requests[0]._replace(feeds=feeds)
    return request if alike and all(job.rows == 1 for job in batch) else request._replace(encode_rows=None)


class Requests:
    """What a runner has taken and not run yet."""

    def __init__(
        self, served: Served, progress: Progress, mappings: Mappings, refuse: Callable[[int, Exception], None]
    ) -> None:
        """`refuse` answers a request, by its number, with an error."""
        self._served = served
        self._progress = progress
        self._mappings = mappings
        self._refuse = refuse
        self._short: list[Frame] = []  # that are not decoded yet
        self._jobs: list[Job] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._short) + len(self._jobs)

    def take(self, frame: Frame, now_ns: int, *, together: bool) -> None:
        """Take one more; `together` where the model runs requests together."""
        kind, codec, split, _, _, body = frame
        # To copy a large body beside another costs more than the call into the runtime that it saves.
        joins = together and kind == _PREDICT and codec < SHARED
        if joins and codec in _OUTLINES and len(body) <= LONG_BYTES and not split:
            self._short.append(frame)
        else:
            self._read(frame, now_ns, joins=joins)

    def decoded(self, now_ns: int) -> list[Job]:
        """All that were taken, but for those that were refused; there are none then."""
        if self._short:
            self._read_short(now_ns)
        jobs, self._jobs = self._jobs, []
        return jobs

    def _read(self, frame: Frame, now_ns: int, *, joins: bool) -> None:
        _, codec, split, number, deadline_ns, body = frame
        self._progress.run_one(number)
        try:
            if now_ns > deadline_ns:
                raise DeadlineExceededError(TOO_LATE)
            # Kept nowhere else: it may be all that holds memory that is shared.
            request = self._decode(codec, split, body)
            self._jobs.append(Job(frame, request, *_fit(request)) if joins else Job(frame, request))
        except Exception as error:  # noqa: BLE001 - a bug in a codec must not take the model out of service
            self._refuse(number, error)

    def _decode(self, codec: int, split: int, body: memoryview) -> Decoded:
        if codec & SHARED:
            codec, body = codec & ~SHARED, self._mappings.body(body)
        decode = _CODECS.get(codec)
        if decode is None:
            msg = f"the codec {codec} is not known here"
            raise BadRequestError(msg)
        return decode(body, split, self._served)

    def _read_short(self, now_ns: int) -> None:
        """Decode what was held, together where requests say the same around their numbers."""
        frames, self._short = self._short, []
        if len(frames) < _WORTH_JOINING:
            self._read_each(frames, now_ns)
            return
        self._progress.run_together([frame[3] for frame in frames])
        groups: dict[int, list[tuple[Frame, Outline]]] = {}
        for frame in frames:
            outline = self._outline(frame, now_ns)
            if outline is None:
                self._read(frame, now_ns, joins=True)
            else:
                groups.setdefault(id(outline.plan), []).append((frame, outline))
        for group in groups.values():
            joint = _read_group([outline for _, outline in group])
            if joint is not None:
                fit = _fit(joint.some(0, 1))
                self._jobs += [Job(frame, joint, *fit, place) for place, (frame, _) in enumerate(group)]
            else:
                self._read_each((frame for frame, _ in group), now_ns)

    def _read_each(self, frames: Iterable[Frame], now_ns: int) -> None:
        for frame in frames:
            self._read(frame, now_ns, joins=True)

    def _outline(self, frame: Frame, now_ns: int) -> Outline | None:
        """A short request cut to be read with others; none where it is to be read alone, which says what is wrong."""
        _, codec, _, _, deadline_ns, body = frame
        if now_ns > deadline_ns:
            return None
        try:
            return _OUTLINES[codec](body, self._served)
        except Exception:  # noqa: BLE001 - as in decoding
            return None


def _read_group(outlines: Sequence[Outline]) -> Joint | None:
    """Requests that say the same around their numbers, read together; nothing where each is to be read alone."""
    try:
        return read_together(outlines[0].plan, [outline.arrays for outline in outlines])
    except Exception:  # noqa: BLE001 - as in decoding
        return None


def _fit(request: Decoded) -> tuple[int, Hashable]:
    """How many observations a request has, and what others need to have to run with it."""
    arrays = request.feeds.values()
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        return 1, None
    return sizes.pop(), (request.outputs, *[array.shape[1:] for array in arrays])
