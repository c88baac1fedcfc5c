"""Answers that are given again to exactly the same request: bounded in bytes, the least recently used leave first.

An answer belongs to the bytes of a model, not to its name: the version's key holds its digest. Who asks has looked up
what the name stands for now, so what is deleted or replaced is not found here, whatever is still kept. It lives on
the event loop of one inferrer process.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from inferrer.segments import Lease
from mlbuffet.errors import MLBuffetError
from mlbuffet.index import Index

Done = Callable[[MLBuffetError | None, bytes, Any], None]

LARGEST_BYTES = 1 << 22  # of a request: a longer one would hold the event loop up while it is hashed
_ENTRY_BYTES = 512  # what an entry takes beside its body
_LEAST_ENTRIES = 8  # no answer takes more than its share of so many


class Question(NamedTuple):
    """A version and exactly what it is asked."""

    key: bytes
    digest: bytes


class Known(NamedTuple):
    """An answer's body, and how much of it is JSON where tensors follow."""

    body: bytes
    split: int


class AnswerCache:
    """The answers that one process keeps."""

    def __init__(self, most_bytes: int) -> None:
        self.size_bytes = 0
        self.hits: Counter[str] = Counter()  # by model
        self.misses: Counter[str] = Counter()
        self._most_bytes = most_bytes
        self._generation = -1
        self._answers: OrderedDict[Question, Known] = OrderedDict()

    def question(self, key: bytes, payload: tuple[int, int, bytes | Lease]) -> Question | None:
        """What a request asks; None where its answer would not be kept."""
        codec, split, body = payload
        if not self._most_bytes or len(body) > LARGEST_BYTES:
            return None
        digest = hashlib.sha256(b"%d %d " % (codec, split))
        digest.update(body if isinstance(body, bytes) else body.view)
        return Question(key, digest.digest())

    def find(self, question: Question, model: str) -> Known | None:
        """The answer that was given before, if it is still here; counts for `model`."""
        known = self._answers.get(question)
        if known is None:
            self.misses[model] += 1
        else:
            self.hits[model] += 1
            self._answers.move_to_end(question)
        return known

    def keep(self, question: Question, body: bytes, split: int) -> None:
        """Remember an answer, and forget others for it."""
        size_bytes = len(body) + _ENTRY_BYTES
        if size_bytes * _LEAST_ENTRIES > self._most_bytes:
            return
        self._forget(question)
        while self.size_bytes + size_bytes > self._most_bytes:
            self._forget(next(iter(self._answers)))
        self._answers[question] = Known(body, split)
        self.size_bytes += size_bytes

    def keeping(self, question: Question, done: Done) -> Done:
        """Have an answer kept as it is given on, if it is one, and of the version that was asked."""

        def keep(error: MLBuffetError | None, body: bytes, call: Any) -> None:  # noqa: ANN401 - a call
            if error is None and call.key == question.key:
                self.keep(question, body, call.answer_split)
            done(error, body, call)

        return keep

    def follow(self, index: Index) -> None:
        """Forget the answers of versions that are gone, or whose answers are no longer to be kept."""
        if self.size_bytes and index.current() != self._generation:
            self._generation = index.refresh()
            versions = [version for entry in index.models().values() for version in entry.versions.values()]
            keys = {version.key for version in versions if version.serving.cache}
            for question in [question for question in self._answers if question.key not in keys]:
                self._forget(question)

    def _forget(self, question: Question) -> None:
        known = self._answers.pop(question, None)
        if known is not None:
            self.size_bytes -= len(known.body) + _ENTRY_BYTES
