"""A Docker engine as a place for runs. What a container may do is decided in `spec`; this module carries it out."""

import io
from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from typing import Any

from trainer import spec
from trainer.archive import File, pack, unpack_file
from trainer.engine import Prepared, Seen, TrainingError, Usage
from trainer.installer import Installer, Watch
from trainer.link import GoneError, Link
from trainer.output import printed
from trainer.runs import Reason, Run
from trainer.store import RunFolder
from trainer.survey import SURVEY, read_survey

_STOP_S = 3  # a script has to listen for SIGTERM to make use of it
_ROLES = ("prepare", "train", "keep")


class DockerEngine:
    """One engine, by the address that the trainer's settings give it."""

    def __init__(self, address: str, link: Link, sandbox: spec.Sandbox, installer: Installer, model_bytes: int) -> None:
        self.address = address
        self._link = link
        self._sandbox = sandbox
        self._installer = installer
        self._model_bytes = model_bytes

    def check(self) -> Mapping[str, str]:
        """Its parts' versions, if it answers."""
        return self._link.check()

    def prepare(
        self, run: Run, folder: RunFolder, say: Callable[[bytes], object], go_on: Callable[[], bool]
    ) -> Prepared:
        """Have image and requirements ready."""
        return self._installer.prepare(run, folder.requirements.read_bytes(), Watch(say, go_on))

    def place(self, run: Run, folder: RunFolder) -> None:
        """Make the working volume and what holds it, fill it, and make the script's container."""
        keep = spec.container_name(run.run_id, "keep")
        self.clean(run.run_id)
        with self._link.asking() as client:
            client.create_volume(**spec.work_volume(self._sandbox, run.run_id))
        self._link.create(keep, spec.keep_container(self._sandbox, run.run_id, str(run.image_digest)))
        owner = spec.USER_ID
        files = [File(spec.SCRIPT, path=folder.script, owner=owner)]
        files += [File(item.name, path=folder.dataset / item.name, owner=owner) for item in run.inputs.dataset]
        with self._link.asking() as client:
            client.start(keep)
            client.put_archive(keep, spec.WORK, pack(files))
        self._link.create(spec.container_name(run.run_id, "train"), spec.train_container(self._sandbox, run))

    def start(self, run: Run) -> bool:
        """Start the script; one that has been started is left as it is."""
        seen = self.look(run)
        if seen.state != "ready" or seen.lost:  # an engine that was stopped meanwhile may have begun to start it
            return False
        with self._link.asking() as client:
            client.start(spec.container_name(run.run_id, "train"))
        return True

    def look(self, run: Run) -> Seen:
        """What has become of the script, and whether what it wrote is still held."""
        state = self._link.state_of(spec.container_name(run.run_id, "train"))
        if state is None:
            return Seen("absent", lost=True)
        if state["Status"] in {"running", "paused", "restarting", "removing"}:
            return Seen("running")
        keeper = self._link.state_of(spec.container_name(run.run_id, "keep"))
        held = keeper is not None and keeper["Running"]
        if state["Status"] == "created":
            return Seen("ready", lost=not held)
        return Seen("ended", state["ExitCode"], state["OOMKilled"], _ran_s(state), lost=not held)

    def usage(self, run: Run) -> Usage | None:
        """What the script takes at this moment."""
        try:
            with self._link.asking() as client:
                told = client.stats(spec.container_name(run.run_id, "train"), stream=False, one_shot=True)
        except GoneError:
            return None
        return _usage(told)

    def output(self, run: Run) -> Generator[bytes, None, None]:
        """All that the script has printed, and what it will."""
        return printed(self._link.follow(spec.container_name(run.run_id, "train")))

    def stop(self, run: Run) -> None:
        """Ask the script to end, and make it three seconds later; the kernel ends its other processes with it."""
        try:
            with self._link.asking() as client:
                client.stop(spec.container_name(run.run_id, "train"), timeout=_STOP_S)
        except GoneError:
            return

    def take(self, run: Run, folder: RunFolder) -> bytes:
        """Copy the model out of the working volume."""
        keep = spec.container_name(run.run_id, "keep")
        printed = self._link.run_in(keep, ["python3", "-I", "-c", SURVEY, run.wish.model])
        found = read_survey(printed, run.wish.model, self._model_bytes)
        with folder.model.open("wb") as file:
            if not self._copy(keep, found.model_path, file, self._model_bytes):
                msg = "the model is no file any more"
                raise TrainingError(Reason.NO_MODEL, msg)
        return self._metrics(keep, found.metrics_bytes) if found.metrics_bytes else b""

    def _metrics(self, keep: str, most_bytes: int) -> bytes:
        kept = io.BytesIO()
        return kept.getvalue() if self._copy(keep, f"{spec.WORK}/{spec.METRICS_FILE}", kept, most_bytes) else b""

    def _copy(self, container: str, path: str, target: Any, most_bytes: int) -> bool:  # noqa: ANN401 - a binary file
        with self._link.asking() as client:
            pieces, _ = client.get_archive(container, path)
            return unpack_file(pieces, target, most_bytes)

    def clean(self, run_id: str) -> None:
        """Remove a run's containers, then its volume, which they used."""
        for role in _ROLES:
            self._link.remove(spec.container_name(run_id, role))
        self._link.remove_volume(spec.container_name(run_id, "work"))

    def sweep(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove what other runs of this trainer have left."""
        mine = {"label": [f"{spec.TRAINER_LABEL}={self._sandbox.trainer_id}"]}
        with self._link.asking() as client:
            containers = client.containers(all=True, filters=mine)
            volumes = client.volumes(filters=mine)["Volumes"] or []
        labels = [item["Labels"] for item in (*containers, *volumes)]
        for run_id in {label[spec.RUN_LABEL] for label in labels if spec.RUN_LABEL in label}:
            if not is_wanted(run_id):
                self.clean(run_id)


def _ran_s(state: Mapping[str, Any]) -> float:
    """How long a container ran, by the engine's clock."""
    began, ended = (datetime.fromisoformat(f"{state[name][:19]}+00:00") for name in ("StartedAt", "FinishedAt"))
    return (ended - began).total_seconds()


def _usage(told: Mapping[str, Any]) -> Usage | None:
    """What the engine tells of a container's control group, of either version."""
    memory, cpu = told.get("memory_stats") or {}, told.get("cpu_stats") or {}
    if "usage" not in memory:
        return None
    spent_ns = cpu.get("cpu_usage", {}).get("total_usage", 0)
    taken = max(memory["usage"], memory.get("max_usage", 0))
    return Usage(taken, spent_ns / 1e9, (told.get("pids_stats") or {}).get("current", 0))
