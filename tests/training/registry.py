"""Image registries that an engine gets nothing good from (https://distribution.github.io/distribution/spec/api)."""

import gzip
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_LAYER_BYTES = 8 << 20


class Registry(BaseHTTPRequestHandler):
    """One that is asked; a subclass answers."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Docker-Content-Digest", _digest(body))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Refusing(Registry):
    """Gives nobody anything."""

    def do_GET(self) -> None:
        """Refuse."""
        told = {"code": "DENIED", "message": "requested access to the resource is denied"}
        self.answer(403, "application/json", json.dumps({"errors": [told]}).encode())


class Large(Registry):
    """Has one image, whose one layer is large."""

    layer = gzip.compress(secrets.token_bytes(_LAYER_BYTES), 0)
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()

    def do_GET(self) -> None:
        """Give a blob by its digest, else the manifest."""
        blobs = {_digest(blob): blob for blob in (self.layer, self.config)}
        layer, config = (
            {"mediaType": kind, "size": len(blob), "digest": digest}
            for kind, (digest, blob) in zip((_LAYER, _CONFIG), blobs.items(), strict=True)
        )
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": [layer]}
        wanted = self.path.rpartition("/")[2]
        self.answer(200, _MANIFEST, blobs.get(wanted) or json.dumps(manifest).encode())


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


@contextmanager
def serving(registry: type[Registry]) -> Iterator[str]:
    """Serve it on loopback, where an engine asks for no TLS; gives the name of an image there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}/private/python:3"
        server.shutdown()
