"""Readers of the generation counter never miss a change: they see its name, or that anything may have changed."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbuffet.generation import EVERYTHING, Generation, create_generation, raise_generation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "generation"
    create_generation(file)
    return file


def test_changes_are_named(path: Path) -> None:
    reader = Generation(path)
    seen = reader.current()
    assert reader.changed_since(seen, seen) == set()
    assert raise_generation(path, "a") == seen + 1
    raise_generation(path, "b" * 64)
    raise_generation(path, "a")
    assert reader.current() == seen + 3
    assert reader.changed_since(seen, seen + 3) == {"a", "b" * 64}
    assert reader.changed_since(seen + 1, seen + 2) == {"b" * 64}


def test_anything_may_have_changed(path: Path) -> None:
    reader = Generation(path)
    seen = reader.current()
    raise_generation(path, "a")
    raise_generation(path, EVERYTHING)
    assert reader.changed_since(seen, seen + 2) is None
    raise_generation(path, "b")
    assert reader.changed_since(seen + 2, seen + 3) == {"b"}


def test_a_reader_that_fell_behind_reads_everything(path: Path) -> None:
    reader = Generation(path)
    seen = reader.current()
    for number in range(1023):
        raise_generation(path, f"m{number}")
    assert reader.changed_since(seen, reader.current()) == {f"m{number}" for number in range(1023)}
    # The next writer fills the oldest slot before it raises the counter: it may be half written.
    raise_generation(path, "one too many")
    assert reader.changed_since(seen, reader.current()) is None
    assert reader.changed_since(seen + 1, reader.current()) is not None


def test_a_counter_that_went_back_means_everything(path: Path) -> None:
    reader = Generation(path)
    for _ in range(5):
        raise_generation(path, "a")
    assert reader.changed_since(reader.current(), 1) is None


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 5)), max_size=8))
def test_no_change_is_missed(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("ring") / "generation"
    create_generation(path)
    reader = Generation(path)
    seen = reader.current()
    for count, name in steps:
        for number in range(count):
            raise_generation(path, f"m{name}-{number}")
        now = reader.current()
        changed = reader.changed_since(seen, now)
        assert changed is None or changed == {f"m{name}-{number}" for number in range(count)}
        assert changed is not None or count >= 1024
        seen = now


def _raise_many(path: Path, name: str) -> None:
    for _ in range(300):
        raise_generation(path, name)


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    reader = Generation(path)
    seen = reader.current()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_raise_many, args=(path, name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert reader.current() == seen + 900
    assert reader.changed_since(seen, seen + 900) == {"a", "b", "c"}


@pytest.mark.parametrize("content", [b"", b"MLBGEN01", b"garbage" * 20_000, bytes(65_552)])
def test_a_file_that_is_not_sound_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "generation"
    path.write_bytes(content)
    create_generation(path)
    reader = Generation(path)
    assert reader.current() == 1
    raise_generation(path, "a")
    create_generation(path)  # sound: left alone
    assert reader.changed_since(1, 2) == {"a"}
