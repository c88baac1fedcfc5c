"""The client's part for training: submit runs, look at them, follow what they print."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import requests
from urllib3.exceptions import HTTPError

from mlbuffet.address import model_path, run_path
from mlbuffet.answers import Metric, Run, why
from mlbuffet.asking import Asking
from mlbuffet.errors import ConnectionFailedError, RunNotFoundError, UnavailableError
from mlbuffet.names import parse_ref
from mlbuffet.transfer import CHUNK_BYTES, FilePart, Files, Source, dumps, opened

_SUBMIT_S = 120.0
_SILENCE_S = 30.0  # the server gives a sign of life every 10 s
_LOST_S = 60.0
_PAUSE_S = 0.5

AnyPath = str | os.PathLike[str]
Dataset = Source | list[AnyPath] | tuple[AnyPath, ...] | Mapping[str, Source]


class TrainingCalls(Asking):
    """What can be asked about training."""

    def train(  # noqa: PLR0913 - each is said by its name
        self,
        name: str,
        *,
        script: Source,
        requirements: Source,
        dataset: Dataset,
        parameters: Mapping[str, str | float | bool] | None = None,
        timeout_s: float | None = None,
        memory_bytes: int | None = None,
        cpus: float | None = None,
        description: str | None = None,
        activate: bool = True,
        retries: int = 0,
    ) -> Run:
        """Begin to train a model; returns the run, which waits now.

        `dataset` is a file, several paths, or files by the names that the script finds them under.
        """
        limits = {"timeout_s": timeout_s, "memory_bytes": memory_bytes, "cpus": cpus}
        fields = {field: str(value) for field, value in limits.items() if value is not None}
        if parameters:
            fields["parameters"] = dumps(dict(parameters)).decode()
        if description is not None:
            fields["description"] = description
        fields |= {"activate": json.dumps(activate), "retries": str(retries)}
        given = [("script", "train.py", script), ("requirements", "requirements.txt", requirements)]
        given += [("dataset", file_name, source) for file_name, source in _named(dataset)]
        with contextlib.ExitStack() as stack:
            parts = [FilePart(field, known, stack.enter_context(opened(source))) for field, known, source in given]
            body = Files(fields, parts)
            headers = {"Content-Type": body.content_type, "Idempotency-Key": uuid4().hex}
            path = f"/api/v1/train/{parse_ref(name).name}" if ":" not in name else model_path(name)
            return self._json("POST", path, wait_s=_SUBMIT_S, data=body, headers=headers)  # type: ignore[return-value]

    def runs(
        self, *, model: str | None = None, state: str | None = None, limit: int | None = None, after: str = ""
    ) -> Iterator[Run]:
        """The training runs, the newest first, page by page: of a model, in a state."""
        asked = {key: value for key, value in {"model": model, "state": state}.items() if value is not None}
        yield from self._pages("/api/v1/runs", limit, after, "runs", **asked)

    def run(self, run_id: str) -> Run:
        """A run as it is now."""
        return self._json("GET", run_path(run_id))  # type: ignore[return-value]

    def run_metrics(self, run_id: str) -> list[Metric]:
        """What a run has told."""
        return self._json("GET", f"{run_path(run_id)}/metrics")["metrics"]  # type: ignore[no-any-return]

    def run_logs(self, run_id: str, *, offset: int = 0, follow: bool = False) -> Iterator[str]:
        """What a run has printed, in pieces, from a byte on; with `follow` also what it will, until it has ended.

        Following goes on where it was when the connection is lost, or the server away for less than a minute.
        """
        if follow:
            yield from self._followed(run_id, offset)
            return
        path, asked = f"{run_path(run_id)}/logs", {"offset": offset}
        with self._tried(lambda: self._send("GET", path, stream=True, params=asked)) as response:
            response.encoding = "utf-8"
            try:
                yield from response.iter_content(CHUNK_BYTES, decode_unicode=True)
            except (requests.RequestException, HTTPError) as error:
                msg = f"no answer from {self.url}: {why(error)}"
                raise ConnectionFailedError(msg) from error

    def cancel_run(self, run_id: str) -> Run:
        """End a run; one that is cancelled stays so."""
        return self._json("POST", f"{run_path(run_id)}/cancel")  # type: ignore[return-value]

    def retry_run(self, run_id: str) -> Run:
        """Run the same inputs again, as a new run."""
        headers = {"Idempotency-Key": uuid4().hex}
        return self._json("POST", f"{run_path(run_id)}/retry", headers=headers)  # type: ignore[return-value]

    def delete_run(self, run_id: str) -> None:
        """Remove a run that has ended; a model that it made stays. Never tried twice."""
        self._json("DELETE", run_path(run_id), once=True)

    # Following ------------------------------------------------------------------------------------------------------

    def _followed(self, run_id: str, offset: int) -> Iterator[str]:
        """Pieces of a log until its run has ended.

        Raises:
            RunNotFoundError: it was deleted meanwhile.
            UnavailableError: the server was away for too long.
        """
        ends_at = time.monotonic() + _LOST_S
        while True:
            failure: Exception = ConnectionFailedError("the connection was closed")
            try:
                for kind, end, data in self._events(run_id, offset):
                    if kind == "end":
                        return
                    if kind == "gone":
                        msg = f"the run {run_id} was deleted"
                        raise RunNotFoundError(msg)
                    offset, ends_at = end, time.monotonic() + _LOST_S
                    yield json.loads(data)
            except (requests.RequestException, HTTPError) as error:
                failure = ConnectionFailedError(f"no answer from {self.url}: {why(error)}")
            except UnavailableError as error:
                failure = error
            if time.monotonic() > ends_at:
                raise failure
            time.sleep(_PAUSE_S)

    def _events(self, run_id: str, offset: int) -> Iterator[tuple[str, int, str]]:
        """Server-sent events from an offset on: kind, the offset behind it, data."""
        headers = {"Last-Event-ID": str(offset), "Accept-Encoding": "identity"}
        path = f"{run_path(run_id)}/logs"
        with self._send(
            "GET", path, wait_s=_SILENCE_S, stream=True, params={"follow": "1"}, headers=headers
        ) as response:
            kind, end, data = "", offset, ""
            for line in response.iter_lines():
                field, _, value = line.decode().partition(": ")
                if field == "event":
                    kind = value
                elif field == "id":
                    end = int(value)
                elif field == "data":
                    data = value
                elif not line and data:
                    yield kind, end, data
                    kind, data = "", ""


def _named(dataset: Dataset) -> Iterator[tuple[str, Source]]:
    """The files of a dataset, each with the name that the script finds it under."""
    if isinstance(dataset, Mapping):
        yield from dataset.items()
    elif isinstance(dataset, str | os.PathLike):
        yield Path(dataset).name, dataset
    elif isinstance(dataset, list | tuple):
        for path in dataset:
            yield Path(path).name, path
    else:
        source: Source = dataset
        yield Path(str(getattr(source, "name", "dataset"))).name, source
