"""Counts in mapped memory: several processes, their ends, gauges of the dead, and what does not fit."""

import fcntl
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mlbuffet.chassis import tally as tally_module
from mlbuffet.chassis.tally import Family, Histogram, Tally, TallyCollector
from mlbuffet.chassis.telemetry import RequestCounts, exposition
from tests.harness.platform import ROOT

DONE = Family("things_done", "Things", ("kind",))
HELD = Family("things_held", "Things", gauge=True)
OLDEST = Family("oldest", "Of all", gauge=True, merge=min)
TOOK = Family("took_seconds", "Time", ("kind",), bounds=(0.1, 1.0))
MODELS = Family("asked", "By model", ("model",))
ALL = (DONE, HELD, OLDEST, TOOK, MODELS)


def shown(tally: Tally, *families: Family, is_model: Callable[[str], bool] | None = None) -> dict[str, float]:
    """Name and labels of every sample, as the official parser reads them, and its value."""
    registry = CollectorRegistry()
    registry.register(TallyCollector(tally, families or ALL, is_model))
    samples = {}
    for family in text_string_to_metric_families(exposition(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def in_a_process_that_is_killed(action: str) -> None:
    """Run a line of code that may use what stands here."""
    code = f"""
import os, signal
from pathlib import Path
from tests.unit.test_tally import *
{action}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def add(folder: Path, kind: str = "a", count: int = 1) -> Tally:
    tally = Tally(folder)
    tally.add(DONE, count, kind)
    tally.set(HELD, 5)
    tally.set(OLDEST, 100)
    return tally


def test_a_process_that_is_killed_loses_no_count_and_its_gauges_go(tmp_path: Path) -> None:
    in_a_process_that_is_killed(f"tally = add(Path({str(tmp_path)!r}))")
    in_a_process_that_is_killed(f"tally = add(Path({str(tmp_path)!r}), 'b', 3)")
    ours = add(tmp_path, count=10)
    ours.set(OLDEST, 50)
    found = shown(ours)
    assert (found["things_done_total{kind=a}"], found["things_done_total{kind=b}"]) == (11, 3)
    assert (found["things_held{}"], found["oldest{}"]) == (5, 50)
    assert sorted(path.name for path in tmp_path.glob("*.tally")) == ["0.tally"], "each took over the one before"


def test_who_takes_over_a_file_begins_with_its_counts_and_no_gauges(tmp_path: Path) -> None:
    in_a_process_that_is_killed(f"tally = add(Path({str(tmp_path)!r}))")
    found = shown(Tally(tmp_path))
    assert (found["things_done_total{kind=a}"], found["things_held{}"]) == (1, 0)


def test_processes_add_up_and_a_dead_one_has_no_gauges(tmp_path: Path) -> None:
    first, second = add(tmp_path), add(tmp_path)
    second.set(OLDEST, 7)
    assert (shown(first)["things_done_total{kind=a}"], shown(first)["things_held{}"]) == (2, 10)
    assert shown(first)["oldest{}"] == 7
    fcntl.flock(second._file, fcntl.LOCK_UN)  # as the kernel does when a process ends
    assert (shown(first)["things_done_total{kind=a}"], shown(first)["things_held{}"]) == (2, 5)
    assert shown(first)["oldest{}"] == 100


def test_what_is_looked_at_while_others_begin_is_never_taken_for_dead(tmp_path: Path) -> None:
    tallies = [add(tmp_path) for _ in range(5)]
    assert len(list(tmp_path.glob("*.tally"))) == 5
    assert {shown(tally)["things_held{}"] for tally in tallies} == {25}


def test_nobody_looks_at_files_while_another_process_takes_one(tmp_path: Path) -> None:
    tally = add(tmp_path)
    looking = threading.Thread(target=tally.totals)
    with tally_module._locked(tmp_path, fcntl.LOCK_EX):
        looking.start()
        looking.join(0.3)
        assert looking.is_alive()
    looking.join(30)
    assert not looking.is_alive()


def test_a_histogram_has_cumulative_buckets_a_count_and_a_sum(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    histogram = Histogram(tally, TOOK)
    for value in (0.05, 0.1, 0.5, 3):
        histogram.observe(value, "x")
    found = shown(Tally(tmp_path))
    assert [found[f"took_seconds_bucket{{kind=x,le={le}}}"] for le in ("0.1", "1.0", "+Inf")] == [2, 3, 4]
    assert (found["took_seconds_count{kind=x}"], found["took_seconds_sum{kind=x}"]) == (4, 3.65)
    assert histogram.series() == {("x",): [2, 1, 1, 3.65]}


def test_more_series_than_fit_at_first_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "_FIRST_BYTES", 4096)
    tally = Tally(tmp_path)
    before = tally.cells
    first = tally.cell(DONE, "first")
    for number in range(1000):
        tally.add(DONE, number, f"kind {number}")
    before[first] += 1  # what was mapped first is still the same memory
    found = shown(tally)
    assert found["things_done_total{kind=first}"] == 1
    assert [found[f"things_done_total{{kind=kind {number}}}"] for number in range(1000)] == list(range(1000))
    assert shown(Tally(tmp_path)) == found, "another process reads the same"


def test_what_there_is_no_room_for_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tally_module, "_FIRST_BYTES", 4096)
    monkeypatch.setattr(tally_module, "_MOST_BYTES", 8192)
    tally = Tally(tmp_path)
    for number in range(1000):
        tally.add(DONE, 1, f"{number:100}")
    Histogram(tally, TOOK).observe(1, "x")
    found = shown(tally)
    assert 30 < len(found) < 80
    assert set(found.values()) == {1}
    assert [record.message for record in caplog.records] == ["no room for more series"]


@pytest.mark.parametrize("value", ['a"b\\c\nd', "x" * (1 << 21), "\x00\x1f\x7f", "é ü", ""])
def test_label_values_of_any_kind_are_read_back_by_the_official_parser(tmp_path: Path, value: str) -> None:
    tally = Tally(tmp_path)
    tally.add(DONE, 1, value)
    registry = CollectorRegistry()
    registry.register(TallyCollector(tally, ALL))
    families = text_string_to_metric_families(exposition(registry).decode())
    assert [(sample.labels, sample.value) for family in families for sample in family.samples] == [({"kind": value}, 1)]


def test_models_that_are_no_more_are_not_shown(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    asked = tally.counts(MODELS, "gone")
    asked["gone"] += 1
    asked["here"] += 2
    assert shown(tally, MODELS, is_model=lambda model: model == "here") == {"asked_total{model=here}": 2}


def test_a_dictionary_of_counts_goes_on_where_the_process_before_ended(tmp_path: Path) -> None:
    in_a_process_that_is_killed(f"Tally(Path({str(tmp_path)!r})).counts(MODELS)['iris'] += 2")
    counts = Tally(tmp_path).counts(MODELS, "other")
    counts["iris"] += 1
    assert (counts["iris"], counts["other"]) == (3, 0)


def test_series_of_another_shape_than_now_are_not_mixed_up(tmp_path: Path) -> None:
    Histogram(Tally(tmp_path), Family("took_seconds", "Before an update", ("kind",), bounds=(1.0,))).observe(5, "x")
    tally = Tally(tmp_path)
    Histogram(tally, TOOK).observe(0.5, "x")
    assert shown(tally)["took_seconds_count{kind=x}"] == 1


def test_requests_are_shown_by_route_by_model_and_as_the_seed_named_them() -> None:
    registry = CollectorRegistry()
    counts = RequestCounts(registry, Tally(), {"iris"}.__contains__)
    counts.count("/v2/models/<name>/infer", "POST", 200, "iris", 0.003)
    counts.count("/api/v1/models/<name>/prediction", "POST", 200, "iris", 0.3)
    counts.count("/api/v1/models/<name>/prediction", "POST", 404, "", 0.0001)
    counts.count("/api/v1/models/<name>/prediction", "POST", 200, "deleted", 0.3)
    counts.count("/api/v1/models/<name>", "GET", 200, "iris", 0.1)
    counts.count("/api/test/sendtomodelhost", "POST", 200, "", 0.1)
    counts.failures["MODEL_NOT_FOUND"] += 1
    found = {
        f"{sample.name} {' '.join(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(exposition(registry).decode())
        for sample in family.samples
    }
    assert found["model_request_operations_total iris 200"] == 2
    assert found["test_request_operations_total 200"] == 1
    assert found["request_errors_total MODEL_NOT_FOUND"] == 1
    assert found["prediction_duration_seconds_count iris"] == 2
    assert found["prediction_duration_seconds_bucket 0.005 iris"] == 1
    assert found["http_request_duration_seconds_count /api/v1/models/<name>/prediction"] == 2
    assert found["http_requests_total POST  /api/v1/models/<name>/prediction 404"] == 1
    assert sum(value for name, value in found.items() if name.startswith("http_requests_total")) == 5
    assert not [name for name in found if "deleted" in name]
