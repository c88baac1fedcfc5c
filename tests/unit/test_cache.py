"""The cache of answers: its bound, who leaves first, and what is never kept."""

from typing import Any, NamedTuple

from inferrer.cache import LARGEST_BYTES, AnswerCache, Question
from mlbuffet.channel import Codec
from mlbuffet.errors import BusyError, MLBuffetError

KEY = b"iris:1@0123456789abcdef"


class Answered(NamedTuple):
    """What is known of a call that was answered."""

    key: bytes
    answer_split: int = 0


def ask(cache: AnswerCache, body: bytes, codec: int = Codec.BUFFET, split: int = 0, key: bytes = KEY) -> Question:
    question = cache.question(key, (codec, split, body))
    assert question is not None
    return question


def test_an_answer_is_known_for_exactly_its_question() -> None:
    cache = AnswerCache(1 << 20)
    cache.keep(ask(cache, b"abc", Codec.OIP, 2), b"answer", 4)
    assert cache.find(ask(cache, b"abc", Codec.OIP, 2), "iris") == (b"answer", 4)
    others = [
        ask(cache, b"abd", Codec.OIP, 2),
        ask(cache, b"abc", Codec.OIP, 1),
        ask(cache, b"abc", Codec.OIP_RAW, 2),
        ask(cache, b"abc", Codec.OIP, 2, b"iris:1@f123456789abcdef"),
        ask(cache, b"2 abc", Codec.OIP, 2),
    ]
    assert [cache.find(other, "iris") for other in others] == [None] * 5
    assert (cache.hits, cache.misses) == ({"iris": 1}, {"iris": 5})


def test_it_stays_within_its_bound_and_the_least_recently_used_leave_first() -> None:
    cache = AnswerCache(100_000)
    questions = [ask(cache, b"%d" % number) for number in range(100)]
    for question in questions:
        cache.keep(question, b"x" * 9_488, 0)
        cache.find(questions[0], "iris")
        assert cache.size_bytes <= 100_000
    kept = [question for question in questions if cache.find(question, "iris")]
    assert kept == [questions[0], *questions[-9:]]
    assert cache.size_bytes == 100_000


def test_the_same_answer_counts_once() -> None:
    cache = AnswerCache(100_000)
    for size in (1_000, 2_000, 500):
        cache.keep(ask(cache, b"again"), b"x" * size, 0)
    assert cache.size_bytes == 500 + 512


def test_what_is_too_large_is_not_kept() -> None:
    cache = AnswerCache(100_000)
    assert cache.question(KEY, (Codec.BUFFET, 0, b"x" * (LARGEST_BYTES + 1))) is None
    question = ask(cache, b"x")
    cache.keep(question, b"x" * 20_000, 0)
    assert cache.find(question, "iris") is None
    assert AnswerCache(0).question(KEY, (Codec.BUFFET, 0, b"x")) is None


def test_errors_and_answers_of_other_versions_are_not_kept() -> None:
    cache = AnswerCache(100_000)
    question = ask(cache, b"x")
    told: list[MLBuffetError | None] = []

    def done(error: MLBuffetError | None, body: bytes, call: Any) -> None:  # noqa: ANN401, ARG001 - as a call's
        told.append(error)

    keep = cache.keeping(question, done)
    error = BusyError("busy")
    keep(error, b"", Answered(KEY))
    keep(None, b"other", Answered(b"iris:2@0123456789abcdef"))
    assert cache.find(question, "iris") is None
    keep(None, b"answer", Answered(KEY, 3))
    assert cache.find(question, "iris") == (b"answer", 3)
    assert told == [error, None, None]
