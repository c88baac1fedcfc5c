"""Which routes and methods ask for which scope: a route without an entry is refused, and fails here."""

import asyncio
from pathlib import Path

from flask import Flask
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from inferrer.access import ANY, METHODS, OPEN, ROUTES, changes
from inferrer.app import Inferrer
from inferrer.clients import Proxies
from inferrer.gate import Gate
from inferrer.keyring import ANONYMOUS, TRAINER, KeyRing
from inferrer.settings import InferrerSettings
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.request import Request
from mlbuffet.keys import SCOPES, Wish
from mlbuffet.keystore import KeyStore
from mlbuffet.oip import inference_pb2

OPEN_ROUTES = {
    "/",
    "/docs",
    "/docs/<asset>",
    "/health/live",
    "/health/ready",
    "/help",
    "/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
}
OPEN_METHODS = {
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
}


def test_nothing_else_is_open() -> None:
    """Whoever opens another route to everybody changes this list too."""
    assert {rule for rule, methods in ROUTES.items() if OPEN in methods.values()} == OPEN_ROUTES
    assert {method for method, scope in METHODS.items() if scope == OPEN} == OPEN_METHODS
    assert {scope for methods in ROUTES.values() for scope in methods.values()} <= {OPEN, *SCOPES}
    assert set(METHODS.values()) <= {OPEN, ANY, *SCOPES}
    assert all(set(ROUTES[rule]) == {"GET"} for rule in OPEN_ROUTES)


def test_every_route_has_an_entry_and_every_entry_a_route(tmp_path: Path) -> None:
    async def walk() -> set[tuple[str, str]]:
        inferrer = Inferrer(InferrerSettings(repository=str(tmp_path), modelhosts=()))
        try:
            rules = list(inferrer.app.url_map.iter_rules())
        finally:
            inferrer.close()
        return {(rule.rule, method) for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}

    listed = {(rule, method) for rule, methods in ROUTES.items() for method in methods}
    assert asyncio.run(walk()) == listed


def test_every_grpc_method_has_an_entry_and_every_entry_a_method() -> None:
    services: list[ServiceDescriptor] = [
        inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    ]
    assert {f"/{service.full_name}/{method.name}" for service in services for method in service.methods} == set(METHODS)


def test_what_changes_something_is_told_from_what_does_not() -> None:
    changing = {
        (rule, method)
        for rule, methods in ROUTES.items()
        for method, scope in methods.items()
        if changes(scope, method)
    }
    assert {(rule, method) for rule, method in changing if method == "GET"} == {("/api/v1/updatemodels", "GET")}
    assert ("/api/v1/keys", "POST") in changing
    assert ("/api/v1/train/<name>", "POST") in changing
    assert ("/api/v1/runs/<run_id>", "DELETE") in changing
    assert ("/api/v1/keys/<key_id>", "DELETE") in changing
    assert not any("prediction" in rule or "infer" in rule or "predict" in rule for rule, _ in changing)


TRAINERS = "the-trainers-own-key-of-forty-characters"


class Asking:
    """A gate in front of an application that has a route nobody has decided on, and a key of every scope."""

    def __init__(self, folder: Path) -> None:
        app = Flask(__name__)
        for rule in ("/new", "/api/v1/models", "/api/v1/models/<name>"):
            app.add_url_rule(rule, rule, lambda **_: "", methods=["GET", "POST"])
        self.ring = KeyRing(KeyStore(folder), TRAINERS)
        self.text = ""
        self.gate = Gate(self.ring, app.url_map, HostPolicy(), Proxies())

    def close(self) -> "Asking":
        """Have it ask for keys."""
        _, self.text = self.ring.make(Wish("all", list(SCOPES)))
        return self

    def who(self, key: str, method: str = "GET") -> str | None:
        """Who is let through to the model routes with a key; None for nobody."""
        request = Request()
        request.method, request.path, request.peer = method.encode(), b"/api/v1/models/m", "127.0.0.1"
        request.fields = {b"host": b"localhost", b"authorization": f"Bearer {key}".encode()}
        return None if self.gate.fault(request) else request.grant.who

    def status(self, method: str, path: str, key: str = "") -> int:
        """What a request is answered by the gate; 200 where it may pass."""
        request = Request()
        request.method, request.path, request.peer = method.encode(), path.encode(), "127.0.0.1"
        request.fields = {b"host": b"localhost", b"x-api-key": (key or self.text).encode()}
        fault = self.gate.fault(request)
        return fault.status if fault else 200


def test_a_route_that_nobody_has_decided_on_is_refused_to_everybody(tmp_path: Path) -> None:
    status = Asking(tmp_path).close().status
    assert {status(method, "/api/v1/models") for method in ("GET", "HEAD", "OPTIONS")} == {200}
    assert {status(method, "/new") for method in ("GET", "HEAD", "POST", "OPTIONS")} == {403}
    assert status("POST", "/api/v1/models") == 403
    assert status("GET", "/nowhere") == status("PATCH", "/api/v1/models") == 200  # Flask says what is wrong
    assert status("GET", "/nowhere", "wrong") == status("GET", "/new", "wrong") == 401


def test_what_is_remembered_of_paths_is_bounded(tmp_path: Path) -> None:
    asking = Asking(tmp_path).close()
    for number in range(3000):
        assert asking.status("GET", f"/api/v1/models/{number}") == 200
    assert len(asking.gate._places) == 1024


def test_the_trainers_key_counts_with_and_without_keys(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    assert [asking.who(key) for key in (TRAINERS, TRAINERS[:-1], TRAINERS + "x")] == [TRAINER, ANONYMOUS, ANONYMOUS]
    open_to_all = asking.ring.unasked(f"Bearer {TRAINERS}".encode(), None)
    asking.close()
    assert [asking.who(key) for key in (TRAINERS, TRAINERS[:-1], TRAINERS + "x", "")] == [TRAINER, None, None, None]
    assert not open_to_all.again(), "what was found without keys is looked at anew"
    assert asking.status("GET", "/new", TRAINERS) == 403
    granted = asking.ring.find(None, TRAINERS.encode())
    assert granted is not None
    assert granted.scopes == {"models:read", "models:write"}


def test_no_trainers_key_is_nobodys(tmp_path: Path) -> None:
    ring = KeyRing(KeyStore(tmp_path))
    assert ring.unasked(b"Bearer ", b"").who == ring.unasked(None, b"").who == ANONYMOUS
    ring.make(Wish("all", list(SCOPES)))
    assert ring.find(None, b"") is None
