"""What can be asked of the trainer: submit a run, look at it, cancel, retry and delete it."""

import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mlbuffet.errors import (
    EngineUnavailableError,
    IdempotencyConflictError,
    QueueFullError,
    RunActiveError,
)
from mlbuffet.names import check_name
from trainer import runs
from trainer.attempt import now
from trainer.intake import Intake
from trainer.launcher import Launcher
from trainer.runs import Inputs, Run, State, Wish
from trainer.settings import TrainerSettings
from trainer.store import RunFolder, RunStore
from trainer.wishes import read_wish


class Training:
    """The trainer's operations, whoever asks for them."""

    def __init__(self, settings: TrainerSettings, store: RunStore, launcher: Launcher) -> None:
        self._settings = settings
        self.store = store
        self._launcher = launcher
        self._last = datetime.now(UTC)
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Tell whether a run could be carried out now."""
        return self._launcher.reachable

    def submit(self, model: str, stream: Any, content_type: str, who: str, key: str | None) -> Run:  # noqa: ANN401 - a stream
        """Take a training request; one whose Idempotency-Key came before is that run.

        Raises:
            EngineUnavailableError, QueueFullError: not now.
            IdempotencyConflictError: the key came with another request.
            MLBuffetError: as `Intake` and `read_wish`.
        """
        check_name(model)
        self._check_room()
        with self.store.incoming() as folder:
            inputs, fields = Intake(folder, model, self._settings).receive(stream, content_type)
            wish = replace(read_wish(model, fields, self._settings), who=who, idempotency_key=key)
            return self._add(wish, inputs, folder)

    def retry(self, run_id: str, who: str, key: str | None) -> Run:
        """Run the same inputs once more, as another run.

        Raises:
            RunActiveError: it has not ended.
            RunNotFoundError, EngineUnavailableError, QueueFullError, IdempotencyConflictError: as elsewhere.
        """
        run = self.store.get(run_id)
        if not run.state.is_over:
            msg = f"the run is {run.state}; it can be retried when it has ended"
            raise RunActiveError(msg)
        self._check_room()
        with self.store.incoming() as folder:
            old = self.store.folder(run_id)
            names = [("inputs/train.py"), "inputs/requirements.txt"]
            names += [f"inputs/dataset/{item.name}" for item in run.inputs.dataset]
            for name in names:
                os.link(old.path / name, folder.path / name)
            wish = replace(run.wish, who=who, idempotency_key=key, retry_of=run_id)
            return self._add(wish, run.inputs, folder)

    def cancel(self, run_id: str) -> Run:
        """Have a run end; it may take a few seconds until it has.

        Raises:
            RunEndedError: it has ended otherwise, or its model is being registered.
        """
        with self.store.changing():
            run = self.store.get(run_id)
            cancelled = runs.cancel(run, now())
            return run if cancelled == run else self.store.put(cancelled)

    def delete(self, run_id: str) -> None:
        """Forget a run with its inputs and log; its model stays.

        Raises:
            RunActiveError: it has not ended.
        """
        with self.store.changing():
            run = self.store.get(run_id)
            if not run.state.is_over:
                msg = f"the run is {run.state}; it can be deleted when it has ended"
                raise RunActiveError(msg)
            self.store.remove(run_id)

    def page(self, limit: int, after: str, model: str, state: str) -> tuple[list[Run], str | None]:
        """Runs, the newest first, and where the next page begins."""
        found = (
            run
            for run in reversed(self.store.all())
            if (not after or run.run_id < after) and model in {"", run.wish.model} and state in {"", run.state}
        )
        page = [run for run, _ in zip(found, range(limit + 1), strict=False)]
        return page[:limit], page[limit - 1].run_id if len(page) > limit else None

    def _check_room(self) -> None:
        """Refuse what could not be carried out."""
        if not self._launcher.stations:
            msg = "this trainer has no engine to run scripts on: TRAINER_ENGINES names none"
            raise EngineUnavailableError(msg)
        if not self._launcher.reachable:
            msg = "none of the trainer's engines can be reached now"
            raise EngineUnavailableError(msg)
        waiting = sum(run.state is State.SCHEDULED for run in self.store.all())
        if waiting >= self._settings.queue:
            msg = f"{waiting} runs are waiting; no more are taken"
            raise QueueFullError(msg)

    def _add(self, wish: Wish, inputs: Inputs, folder: RunFolder) -> Run:
        """Keep a request as a run, unless it is one already."""
        with self._lock:
            known = next(self._with_key(wish.idempotency_key), None) if wish.idempotency_key else None
            if known is not None:
                if known.inputs != inputs or replace(known.wish, who=wish.who) != wish:
                    msg = f"the Idempotency-Key was used before, for the run {known.run_id}, which is another"
                    raise IdempotencyConflictError(msg)
                return known
            self._check_room()
            self._last = moment = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
            run = Run(runs.make_id(moment, secrets.randbelow(1 << 12)), wish, inputs, runs.timestamp(moment))
            self.store.add(run, folder)
            return run

    def _with_key(self, key: str) -> Iterator[Run]:
        return (run for run in self.store.all() if run.wish.idempotency_key == key)
