import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.chassis.ids import request_id_of

OWN = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")


@given(st.from_regex(rb"[A-Za-z0-9._:-]{1,64}", fullmatch=True))
def test_a_sound_id_is_kept(given_id: bytes) -> None:
    assert request_id_of(given_id).encode() == given_id


@given(st.binary(max_size=100))
def test_no_other_id_reaches_a_log_or_a_header(given_id: bytes) -> None:
    found = request_id_of(given_id)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", found)
    assert found.encode() == given_id or OWN.fullmatch(found)


@pytest.mark.parametrize("bad", [b"", b" ", b"a b", b"a\r\nb", b"a" * 65, b"\xff", b"a,b", b"a/b", b"a\0", b"abc\n"])
def test_what_is_not_sound_is_replaced(bad: bytes) -> None:
    assert OWN.fullmatch(request_id_of(bad))


def test_no_id_is_given_twice_by_threads() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: request_id_of(b""), range(5000)))
    assert len(set(ids)) == 5000


def test_a_forked_process_gives_others() -> None:
    prefixes = set()
    for _ in range(3):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, request_id_of(b"").encode())
            os._exit(0)
        os.waitpid(child, 0)
        prefixes.add(os.read(reading, 100).partition(b"-")[0])
        os.close(reading)
        os.close(writing)
    prefixes.add(request_id_of(b"").partition("-")[0].encode())
    assert len(prefixes) == 4
