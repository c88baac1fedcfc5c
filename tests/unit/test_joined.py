"""Requests that run together as one: as they stand where they were read together, else put together."""

import numpy as np

from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import buffet, oip
from modelhost.codecs.request import Decoded, Served
from modelhost.codecs.together import read_together
from modelhost.decoding import Job, joined

SERVED = Served("m", 1, Signature((TensorSpec("x", "FP32", (None, 2)),), (TensorSpec("y", "FP32", (None,)),)))


def read(rows: int, count: int) -> list[Job]:
    """So many requests of so many rows, numbered on through all rows."""
    values = np.arange(count * rows * 2).reshape(count, rows, 2)
    texts = [b'{"values":%b}' % str(value.tolist()).encode() for value in values]
    found = [outline for text in texts if (outline := buffet.outline(memoryview(text), SERVED)) is not None]
    joint = read_together(found[0].plan, [outline.arrays for outline in found])
    assert joint is not None
    frame = (1, 1, 0, 0, 0, memoryview(b""))
    return [Job(frame, joint, rows, "alike", place) for place in range(count)]


def rows_in(request: Decoded) -> list[list[float]]:
    rows: list[list[float]] = request.feeds["x"].tolist()
    return rows


def test_what_was_read_together_is_run_as_it_stands() -> None:
    jobs = read(rows=1, count=5)
    some = joined(jobs[1:4])
    assert rows_in(some) == [row for job in jobs[1:4] for row in rows_in(job.request)] == [[2, 3], [4, 5], [6, 7]]
    assert np.shares_memory(some.feeds["x"], jobs[0].read.some(0, 5).feeds["x"])
    assert some.encode_rows is not None
    assert len(some.encode_rows([np.zeros(3, np.float32)])) == 3


def test_requests_of_several_rows_are_answered_one_by_one() -> None:
    jobs = read(rows=2, count=3)
    some = joined(jobs[1:])
    assert rows_in(some) == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert some.encode_rows is None
    assert rows_in(jobs[2].request) == [[8, 9], [10, 11]]


def test_answers_are_made_together_where_requests_say_the_same_around_their_bytes() -> None:
    head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]%b}'
    jobs: list[Job] = []
    for more in (b"", b"", b',"id":"a"'):
        text = head % more
        body = memoryview(text + np.array([len(jobs), 7], np.float32).tobytes())
        jobs.append(Job((1, 3, len(text), 0, 0, body), oip.decode(body, len(text), SERVED)))
    assert rows_in(joined(jobs)) == [[0, 7], [1, 7], [2, 7]]
    assert joined(jobs[:2]).encode_rows is not None
    assert joined(jobs).encode_rows is None  # the last one's answer has its id


def test_what_was_read_apart_is_put_together() -> None:
    first, second = read(rows=1, count=4), read(rows=1, count=2)
    alone = Job((1, 1, 0, 0, 0, memoryview(b"")), buffet.decode(memoryview(b'{"values":[[8,9]]}'), 0, SERVED))
    some = joined([first[3], *second, alone])
    assert rows_in(some) == [[6, 7], [0, 1], [2, 3], [8, 9]]
    assert some.encode_rows is None
