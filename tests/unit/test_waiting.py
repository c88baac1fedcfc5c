"""The queue of one version: its bound, its order, and what it makes of the time that requests take."""

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from modelhost.waiting import Hand, RequestQueue, Waiting

MS = 1_000_000
_LINK = cast("Any", object())


def request(frame_id: int = 1, deadline_ms: int = 1000, link: object = _LINK) -> Waiting:
    return Waiting(cast("Any", link), frame_id, 1, 0, 0, deadline_ms * MS, b"")


class OneRunner(RequestQueue):
    """A queue with one runner, whose answers come one by one."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.hand = Hand()

    def take(self, now_ns: int) -> Waiting | None:
        """The next one for the runner."""
        return self.next(self.hand, now_ns)

    def answer(self, number: int, now_ns: int) -> Waiting | None:
        """What the runner has answered."""
        waiting = self.answered(number)
        self.pace(self.hand, 1, now_ns)
        return waiting


def filled(count: int, *, most: int = 1000) -> OneRunner:
    queue = OneRunner(most)
    for number in range(count):
        queue.put(request(number))
    return queue


def take_all(queue: OneRunner, now_ns: int = 0) -> list[int]:
    taken = []
    while (waiting := queue.take(now_ns)) is not None:
        taken.append(waiting.frame_id)
    return taken


def test_first_come_first_served_and_no_more_ahead_than_keeps_the_runner_busy() -> None:
    queue = filled(100)
    assert take_all(queue) == list(range(64))
    assert len(queue) == 100
    for number in range(1, 65):
        queue.answer(number, 64 * 10)  # nanoseconds: very fast
    assert take_all(queue) == list(range(64, 100))


def test_a_slow_model_gets_little_ahead() -> None:
    queue = filled(100)
    queue.take(0)
    queue.answer(1, 2000 * MS)
    assert take_all(queue) == [1, 2], "one that runs and one that follows"


def test_a_full_queue_refuses() -> None:
    queue = filled(3, most=3)
    refusal = queue.refusal(request(), 0)
    assert refusal is not None
    assert refusal.code == "QUEUE_FULL"
    queue.take(0)
    assert queue.refusal(request(), 0) is not None, "what runs counts too"
    queue.answer(1, MS)
    assert queue.refusal(request(), 0) is None


def test_who_could_not_be_answered_in_time_is_refused_at_once() -> None:
    queue = filled(5)
    take_all(queue)
    for number in range(1, 6):
        queue.answer(number, number * 100 * MS)  # a tenth of a second each
    for number in range(10):
        queue.put(request(number, deadline_ms=800))
    refusal = queue.refusal(request(deadline_ms=900), 500 * MS)
    assert refusal is not None
    assert "the 10 before it" in refusal.message
    assert queue.refusal(request(deadline_ms=2000), 500 * MS) is None


def test_one_slow_request_alone_refuses_nobody() -> None:
    queue = filled(1)
    queue.take(0)
    queue.answer(1, 60_000 * MS)
    queue.put(request())
    queue.take(60_000 * MS)
    assert queue.refusal(request(deadline_ms=60_100), 60_000 * MS) is None, "nobody waits: it may be a fast one"


def test_what_is_overdue_leaves_and_the_rest_keeps_its_order() -> None:
    queue = OneRunner(10)
    for number, deadline_ms in enumerate((5, 1, 7, 2)):
        queue.put(request(number, deadline_ms))
    assert [waiting.frame_id for waiting in queue.overdue(3 * MS)] == [1, 3]
    assert queue.overdue(3 * MS) == []
    assert take_all(queue) == [0, 2]


def test_what_is_due_first_goes_first_and_equals_in_the_order_in_which_they_came() -> None:
    queue = OneRunner(10)
    for number, deadline_ms in enumerate((5, 9, 5, 1, 9)):
        queue.put(request(number, deadline_ms))
    assert take_all(queue) == [3, 0, 2, 1, 4]


def test_who_is_due_before_the_others_is_not_refused_for_them() -> None:
    queue = filled(1)
    queue.take(0)
    queue.answer(1, 100 * MS)
    for number in range(10):
        queue.put(request(number, deadline_ms=60_000))
    assert queue.refusal(request(deadline_ms=600), 100 * MS) is None
    assert queue.refusal(request(deadline_ms=60_000), 59_000 * MS) is not None


def test_twice_the_runners_need_half_the_time() -> None:
    queue = filled(1)
    queue.take(0)
    queue.answer(1, 100 * MS)
    for number in range(10):
        queue.put(request(number, deadline_ms=800))
    assert queue.refusal(request(deadline_ms=1000), 100 * MS) is not None
    queue.serve_with(2, 1)
    assert queue.refusal(request(deadline_ms=1000), 100 * MS) is None


def test_of_several_runners_none_has_more_ahead_than_it_needs() -> None:
    queue = filled(100)
    queue.serve_with(2, 1)
    assert take_all(queue) == [0, 1], "one that runs and one that follows"
    assert queue.next(other := Hand(), 0) is not None
    assert other.count == 1


def test_a_runner_has_enough_ahead_to_run_together_what_it_may() -> None:
    queue = filled(100)
    queue.take(0)
    queue.answer(1, 2000 * MS)
    queue.serve_with(1, 8)
    assert len(take_all(queue)) == 16


def test_a_suspect_runs_in_the_replacement_of_its_own_runner_and_no_other() -> None:
    queue = filled(3)
    queue.take(0)
    other = Hand()
    (ahead,) = queue.take_back(queue.hand).values()
    ahead.alone = True
    queue.put_back([ahead])
    assert len(queue) == 3
    assert queue.next(other, 0) is not ahead
    assert queue.take(0) is ahead
    queue.put_back(queue.take_back(queue.hand).values())
    queue.release(queue.hand)
    taken = [queue.next(other, 0), queue.next(other, 0)]
    assert ahead in taken, "its runner does not come back"


def test_time_in_the_queue_is_added_up() -> None:
    queue = filled(2)
    take_all(queue, 5)
    queue.put_back(queue.take_back(queue.hand).values())
    take_all(queue, 50)
    assert (queue.given, queue.queued, queue.queued_ns) == (4, 2, 10), "what is run once more has not waited again"


def test_what_a_dead_runner_had_goes_first_but_for_the_abandoned() -> None:
    queue = filled(70)
    take_all(queue)
    queue.abandon(lambda waiting: waiting.frame_id in {3, 66})
    ahead = queue.take_back(queue.hand)
    assert list(ahead) == list(range(1, 65))
    assert not queue.hand.count
    del ahead[1]
    queue.put_back(ahead.values())
    assert take_all(queue) == [number for number in range(1, 67) if number not in {3, 66}][:64]


def test_draining_empties_it() -> None:
    queue = filled(3)
    assert [waiting.frame_id for waiting in queue.drain()] == [0, 1, 2]
    assert len(queue) == 0


@given(st.lists(st.sampled_from(["put", "next", "answer", "abandon", "die"]), max_size=200))
def test_no_request_is_lost_or_given_twice(steps: list[str]) -> None:
    queue, put, done, ahead = OneRunner(10_000), 0, set[int](), dict[int, int]()
    gone: set[int] = set()
    for now_ns, step in enumerate(steps):
        if step == "put":
            queue.put(request(put))
            put += 1
        elif step == "next" and (waiting := queue.take(now_ns)) is not None:
            assert waiting.frame_id not in done
            assert waiting.frame_id not in ahead.values()
            ahead[queue.given] = waiting.frame_id
        elif step == "answer" and ahead:
            number = next(iter(ahead))
            answered = queue.answer(number, now_ns)
            assert answered is not None
            assert answered.frame_id == ahead.pop(number)
            done.add(answered.frame_id)
        elif step == "abandon" and put:
            gone.add(put - 1)
            queue.abandon(lambda waiting: waiting.frame_id == put - 1)  # noqa: B023 - called at once
        elif step == "die":
            queue.put_back(queue.take_back(queue.hand).values())
            ahead.clear()
    waiting_now = len(queue)
    assert waiting_now >= put - len(done) - len(gone)
    assert waiting_now <= put - len(done)
