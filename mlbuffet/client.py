"""Python client of the public API: push, pull, describe, roll back and delete models, and predict.

    with Client("http://127.0.0.1:8002") as client:
        client.push("iris.onnx", "trained/iris.onnx", description="Iris, by petals and sepals")
        client.predict("iris.onnx", [[5.1, 3.5, 1.4, 0.2]])["values"]

What the server refuses is raised as the class of `mlbuffet.errors` that has its code, with the request's id in the
attribute `request_id` and in the traceback. A connection that fails is tried again, a bounded number of times, wherever
doing it twice is the same as doing it once. Files are streamed both ways and checked by their SHA-256. One client is
for one thread.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from mlbuffet.address import model_path
from mlbuffet.answers import (
    ApiKey,
    Loaded,
    Model,
    ModelDetails,
    NewKey,
    Prediction,
    Pulled,
    Version,
    stranger,
)
from mlbuffet.errors import DigestMismatchError, UnavailableError, VersionNotFoundError
from mlbuffet.names import parse_ref
from mlbuffet.training import TrainingCalls
from mlbuffet.transfer import CHUNK_BYTES, Body, Progress, Source, dumps, form, opened

_CHANGE_S = 120.0  # checking, loading and warming a large model takes the server longer than a prediction
_GRACE_S = 5.0  # the server's own deadline is to speak first


class Client(TrainingCalls):
    """One MLBuffet server, over kept connections.

    `key` is the API key; `timeout_s` bounds connecting and each wait for a byte, not a whole transfer.

    Raises:
        ValueError: `url` or `key` cannot be one.
    """

    def is_ready(self) -> bool:
        """Tell whether the server is there and answers predictions."""
        try:
            self._json("GET", "/health/ready", once=True)
        except UnavailableError:
            return False
        return True

    def models(self, *, limit: int | None = None, after: str = "") -> Iterator[str]:
        """The models' names in order, page by page: those behind `after`, at most `limit`."""
        yield from self._pages("/api/v1/models", limit, after)

    def information(self, *, limit: int | None = None, after: str = "") -> Iterator[Model]:
        """The models in order of their names, page by page: those behind `after`, at most `limit`."""
        yield from self._pages("/api/v1/models/information", limit, after)

    def show(self, name: str) -> ModelDetails:
        """A model's default version, or with `name:version` that one."""
        return self._json("GET", model_path(name))  # type: ignore[return-value]

    def push(  # noqa: PLR0913 - each is said by its name
        self,
        name: str,
        source: Source,
        *,
        description: str | None = None,
        image: Mapping[str, object] | None = None,
        progress: Progress | None = None,
        if_match: str | None = None,
        activate: bool = True,
    ) -> Version:
        """Upload a file, its bytes or an open binary file as the new default version of a model.

        Without `activate` the version is there to be asked by its number, and the default stays what it is.

        Pushing the bytes of the present default makes no new version. `if_match` is the digest that the default has to
        have before, or `*` for any; `image` says how pixels become the input (scale, mean, std, labels).
        """
        fields = {} if description is None else {"model_description": description}
        if image is not None:
            fields["image"] = dumps(image).decode()
        if not activate:
            fields["activate"] = "false"
        with opened(source) as file:
            body = Body(file, form("path", fields) if fields else None, progress)
            headers = {**body.headers, "X-Content-SHA256": body.digest, "Idempotency-Key": uuid4().hex}
            if if_match is not None:
                headers["If-Match"] = if_match if if_match == "*" else f'"{if_match}"'
            return self._json("PUT", model_path(name), wait_s=_CHANGE_S, data=body, headers=headers)  # type: ignore[return-value]

    def pull(self, name: str, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Pulled:
        """Download a model's file to a path or into a folder; it appears there whole and checked, or not at all.

        Raises:
            DigestMismatchError: the bytes received are not those that were announced.
            OSError: the file cannot be written.
        """
        target = Path(path)
        if target.is_dir():
            target /= parse_ref(name).name
        beside = target.with_name(f".{target.name}.{uuid4().hex}")
        try:
            version, digest = self._tried(lambda: self._download(name, beside, progress))
            size_bytes = beside.stat().st_size
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        return {"version": version, "digest": digest, "size_bytes": size_bytes, "path": str(target)}

    def describe(
        self,
        name: str,
        *,
        description: str | None = None,
        image: Mapping[str, object] | None = None,
        pinned: bool | None = None,
    ) -> Version:
        """Change what is said of a version: None leaves as it is."""
        changes = {"model_description": description, "image": image, "pinned": pinned}
        wanted = {field: value for field, value in changes.items() if value is not None}
        return self._json("POST", model_path(name), data=dumps(wanted))  # type: ignore[return-value]

    def rollback(self, name: str, version: int | None = None) -> int:
        """Make another version the default, without one the highest below the present; returns its number.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        if version is None:
            model = self.show(parse_ref(name).name)
            lower = [item["version"] for item in model["versions"] if item["version"] < model["default"]]
            if not lower:
                msg = f"{name} has no version below its default, {model['default']}"
                raise VersionNotFoundError(msg)
            version = max(lower)
        answer = self._json("POST", f"{model_path(name)}/default", wait_s=_CHANGE_S, data=dumps({"default": version}))
        return int(answer["default"])

    def load(self, name: str) -> Loaded:
        """Load a version on every modelhost; one that had failed or is quarantined there is tried anew."""
        return self._json("POST", f"{model_path(name)}/load", wait_s=_CHANGE_S)  # type: ignore[return-value]

    def unload(self, name: str) -> Version:
        """Take a version out of service and give its memory back, until it is loaded again."""
        return self._json("POST", f"{model_path(name)}/unload")  # type: ignore[return-value]

    def delete(self, name: str) -> None:
        """Delete a model, or with `name:version` one version; never tried twice, the second would find nothing."""
        self._json("DELETE", model_path(name), once=True)

    def predict(
        self, name: str, values: object, *, outputs: Sequence[str] | None = None, timeout_s: float | None = None
    ) -> Prediction:
        """Predict from nested lists or arrays, for several inputs in a mapping by name.

        `outputs` are the names of those wanted, or "all"; within `timeout_s` the server answers or gives up.
        """
        asked = {} if outputs is None else {"outputs": outputs if isinstance(outputs, str) else list(outputs)}
        headers = {"Content-Type": "application/json"}
        return self._predict(name, timeout_s, dumps({"values": values, **asked}), headers)

    def predict_image(
        self, name: str, image: Source, *, outputs: Sequence[str] | None = None, timeout_s: float | None = None
    ) -> Prediction:
        """Predict from a picture: a file, its bytes or an open binary file; png, jpeg, webp or bmp."""
        fields = {} if outputs is None else {"outputs": outputs if isinstance(outputs, str) else ",".join(outputs)}
        with opened(image) as file:
            body = Body(file, form("file", fields), None)
            return self._predict(name, timeout_s, body, body.headers)

    # How it is asked -------------------------------------------------------------------------------------------------

    def _predict(self, name: str, timeout_s: float | None, data: object, headers: Mapping[str, str]) -> Prediction:
        if timeout_s is not None:
            headers = {**headers, "X-Request-Timeout-Ms": str(max(1, round(timeout_s * 1000)))}
        wait_s = 0.0 if timeout_s is None else timeout_s + _GRACE_S
        path = f"{model_path(name)}/prediction"
        return self._json("POST", path, wait_s=wait_s, data=data, headers=headers)  # type: ignore[return-value]

    def create_key(
        self, name: str, scopes: Sequence[str], *, expires: str | None = None, rate: float | None = None
    ) -> NewKey:
        """Make an API key, which is shown this once; it may ask `rate` times a second until `expires` (RFC 3339)."""
        wish = {"name": name, "scopes": list(scopes), "expires": expires, "rate": rate}
        return self._json("POST", "/api/v1/keys", once=True, data=dumps(wish))  # type: ignore[return-value]

    def api_keys(self) -> list[ApiKey]:
        """What is told of each API key."""
        return self._json("GET", "/api/v1/keys")["keys"]  # type: ignore[no-any-return]

    def revoke_key(self, key_id: str) -> None:
        """Let an API key count no longer."""
        self._json("DELETE", f"/api/v1/keys/{quote(key_id, safe='')}", once=True)

    def _download(self, name: str, path: Path, progress: Progress | None) -> tuple[int, str]:
        """Write a model's file durably; returns its version and digest."""
        headers = {"Accept-Encoding": "identity"}
        digest, done = hashlib.sha256(), 0
        with (
            self._send("GET", f"{model_path(name)}/download", stream=True, headers=headers) as response,
            path.open("wb") as file,
        ):
            announced = response.headers.get("ETag", "").removeprefix("W/").strip('"')
            version, total = response.headers.get("X-Model-Version", ""), response.headers.get("Content-Length", "0")
            if not announced.startswith("sha256:") or not version.isdecimal():
                raise stranger(response)
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, int(total))
            file.flush()
            os.fsync(file.fileno())
        received = f"sha256:{digest.hexdigest()}"
        if received != announced:
            msg = f"the {done} bytes received have the digest {received}; announced was {announced}"
            raise DigestMismatchError(msg)
        return int(version), received
