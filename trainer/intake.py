"""A training request as it comes: files straight to disk, within their bounds, and every field looked at.

Strict: a field that is not known is an error, so that nobody believes to have asked for what is not to be had.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from multipart import MultipartSegment

from mlbuffet.chassis.forms import form_events, is_multipart
from mlbuffet.errors import (
    BadMultipartError,
    MissingDatasetError,
    MissingRequirementsError,
    MissingScriptError,
    TooLargeError,
    UnsupportedTypeError,
)
from trainer.requirements import REQUIREMENTS_BYTES, check_requirements
from trainer.runs import Input, Inputs
from trainer.settings import TrainerSettings
from trainer.spec import METRICS_FILE, SCRIPT
from trainer.store import RunFolder, write_file

FILES = frozenset({"script", "requirements", "dataset"})
FIELDS = frozenset({"parameters", "timeout_s", "memory_bytes", "cpus", "description", "activate", "retries"})
_MOST_PARTS = 64
_FIELD_BYTES = 1 << 16
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(slots=True)
class _Open:
    """A file that is being received."""

    path: Path
    file: BinaryIO
    most_bytes: int
    name: str
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes | bytearray) -> None:
        """Take a piece.

        Raises:
            TooLargeError: it is too much.
        """
        self.size += len(data)
        if self.size > self.most_bytes:
            msg = f"{self.name} has at most {self.most_bytes} bytes"
            raise TooLargeError(msg)
        self.file.write(data)
        self.digest.update(data)

    def close(self) -> Input:
        """Make it durable; what it is."""
        with self.file:
            write_file(self.file)
        return Input(self.digest.hexdigest(), self.size, self.path.name)


class Intake:
    """Receives one request into a folder."""

    def __init__(self, folder: RunFolder, model: str, settings: TrainerSettings) -> None:
        self._folder = folder
        self._model = model
        self._settings = settings
        self._files: dict[str, list[Input]] = {"script": [], "requirements": [], "dataset": []}
        self._fields: dict[str, bytearray] = {}
        self._open: _Open | None = None
        self._field: bytearray | None = None
        self._dataset_bytes = 0

    def receive(self, stream: Any, content_type: str) -> tuple[Inputs, Mapping[str, str]]:  # noqa: ANN401 - a stream
        """Read it all; returns what was sent, and the text of the fields.

        Raises:
            UnsupportedTypeError, BadMultipartError, TooLargeError: it is no such form.
            MissingScriptError, MissingRequirementsError, MissingDatasetError: a file is missing.
            InvalidRequirementsError: a requirement that is not taken.
        """
        if not is_multipart(content_type):
            msg = "a training request is multipart/form-data with the files script, requirements and dataset"
            raise UnsupportedTypeError(msg)
        try:
            for event in form_events(stream, content_type, _MOST_PARTS):
                self._take(event)
        finally:
            if self._open is not None:
                self._open.file.close()
        return self._inputs(), self._texts()

    def _take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event.name, event.filename)
        elif event is None:
            self._end()
        elif self._open is not None:
            self._open.write(event)
        elif self._field is not None:
            self._field += event
            if len(self._field) > _FIELD_BYTES:
                msg = f"a field has at most {_FIELD_BYTES} bytes"
                raise TooLargeError(msg)

    def _begin(self, name: str, file_name: str | None) -> None:
        if name in FILES:
            self._open = self._opened(name, file_name or "")
        elif name in FIELDS:
            if name in self._fields:
                msg = f"the field {name!a} was received twice"
                raise BadMultipartError(msg)
            self._field = self._fields[name] = bytearray()
        else:
            known = ", ".join(sorted(FILES | FIELDS))
            msg = f"the fields are {known}; received {name[:80]!a}"
            raise BadMultipartError(msg)

    def _opened(self, name: str, file_name: str) -> _Open:
        settings, folder = self._settings, self._folder
        if "/" in file_name or "\\" in file_name:
            msg = f"a file is sent by its name alone, without folders; received {file_name[:80]!a}"
            raise BadMultipartError(msg)
        if name == "dataset":
            path = folder.dataset / self._dataset_name(file_name)
            return _Open(path, path.open("xb"), settings.dataset_bytes - self._dataset_bytes, "the dataset")
        if self._files[name]:
            msg = f"the file {name!a} was received twice"
            raise BadMultipartError(msg)
        path, most = {
            "script": (folder.script, settings.script_bytes),
            "requirements": (folder.requirements, REQUIREMENTS_BYTES),
        }[name]
        return _Open(path, path.open("xb"), most, f"the file {name}")

    def _dataset_name(self, file_name: str) -> str:
        """The name that a dataset's file has in the script's folder."""
        taken = {SCRIPT, METRICS_FILE, self._model.lower()} | {item.name.lower() for item in self._files["dataset"]}
        if not _FILE_NAME.fullmatch(file_name):
            msg = f"a dataset's file name has letters, digits and . _ - only; received {file_name[:80]!a}"
            raise BadMultipartError(msg)
        if file_name.lower() in taken:
            msg = f"a dataset's file cannot be named {file_name!a}: another file of the run is"
            raise BadMultipartError(msg)
        return file_name

    def _end(self) -> None:
        done, self._open, self._field = self._open, None, None
        if done is None:
            return
        received = done.close()
        by_path = {self._folder.script: "script", self._folder.requirements: "requirements"}
        name = by_path.get(done.path, "dataset")
        self._files[name].append(received)
        if name == "dataset":
            self._dataset_bytes += received.size_bytes

    def _inputs(self) -> Inputs:
        scripts, requirements, dataset = self._files.values()
        if not scripts:
            msg = "the file 'script' is missing: the Python script that trains the model"
            raise MissingScriptError(msg)
        if not requirements:
            msg = "the file 'requirements' is missing: what the script needs installed; it may be empty"
            raise MissingRequirementsError(msg)
        if not dataset:
            msg = "the file 'dataset' is missing: what the script learns from; it may come several times"
            raise MissingDatasetError(msg)
        check_requirements(self._folder.requirements.read_bytes(), urls=self._settings.urls)
        return Inputs(scripts[0], requirements[0], tuple(dataset))

    def _texts(self) -> Mapping[str, str]:
        try:
            return {name: value.decode() for name, value in self._fields.items()}
        except UnicodeDecodeError as error:
            msg = "a field is not UTF-8"
            raise BadMultipartError(msg) from error
