"""Which scope each route takes. Pure: this table is all there is to decide by, and what it does not list is refused.

HEAD is as GET. OPTIONS says which methods an address takes, and needs a key of any scope.
"""

from collections.abc import Mapping

from mlbuffet.keys import ADMIN, PREDICT, READ, TRAIN, WRITE

RPC = "GRPC"  # where HTTP has a method
OPEN = "open"  # to everybody, without a key
ANY = "any"  # scope

_MODEL = "/api/v1/models/<name>"
_V2 = "/v2/models/<name>"
_VERSION = f"{_V2}/versions/<version>"

ROUTES: Mapping[str, Mapping[str, str]] = {
    # Probers ask for these, and have no keys.
    "/health/live": {"GET": OPEN},
    "/health/ready": {"GET": OPEN},
    "/v2/health/live": {"GET": OPEN},
    "/v2/health/ready": {"GET": OPEN},
    # The same for every installation of this version: what there is to ask for, and a page to give a key to.
    "/": {"GET": OPEN},
    "/help": {"GET": OPEN},
    "/openapi.json": {"GET": OPEN},
    "/docs": {"GET": OPEN},
    "/docs/<asset>": {"GET": OPEN},
    "/api/test": {"GET": READ},
    "/api/test/sendtomodelhost": {"POST": PREDICT},
    "/metrics": {"GET": READ},
    "/api/v1/models": {"GET": READ},
    "/api/v1/models/information": {"GET": READ},
    "/api/v1/updatemodels": {"GET": WRITE},
    _MODEL: {"GET": READ, "PUT": WRITE, "POST": WRITE, "DELETE": WRITE},
    f"{_MODEL}/download": {"GET": READ},
    f"{_MODEL}/default": {"POST": WRITE},
    f"{_MODEL}/load": {"POST": WRITE},
    f"{_MODEL}/unload": {"POST": WRITE},
    f"{_MODEL}/prediction": {"GET": PREDICT, "POST": PREDICT},
    "/api/v1/train/<name>": {"POST": TRAIN},
    "/api/v1/runs": {"GET": TRAIN},
    "/api/v1/runs/<run_id>": {"GET": TRAIN, "DELETE": TRAIN},
    "/api/v1/runs/<run_id>/logs": {"GET": TRAIN},
    "/api/v1/runs/<run_id>/metrics": {"GET": TRAIN},
    "/api/v1/runs/<run_id>/cancel": {"POST": TRAIN},
    "/api/v1/runs/<run_id>/retry": {"POST": TRAIN},
    "/api/v1/keys": {"GET": ADMIN, "POST": ADMIN},
    "/api/v1/keys/<key_id>": {"DELETE": ADMIN},
    "/v1/models": {"GET": READ},
    "/v1/models/<name>": {"GET": READ},
    "/v1/models/<name>:predict": {"POST": PREDICT},
    "/v2": {"GET": READ},
    "/v2/": {"GET": READ},
    "/v2/models/stats": {"GET": READ},
    **{
        f"{model}{what}": {"GET": READ}
        for model in (_V2, _VERSION)
        for what in ("", "/ready", "/config", "/stats", "/openapi.json")
    },
    **{f"{model}/infer": {"POST": PREDICT} for model in (_V2, _VERSION)},
    "/v2/repository/index": {"POST": READ},
    "/v2/repository/models/<name>/load": {"POST": WRITE},
    "/v2/repository/models/<name>/unload": {"POST": WRITE},
}

_INFERENCE = "/inference.GRPCInferenceService"
METHODS: Mapping[str, str] = {
    "/grpc.health.v1.Health/Check": OPEN,
    "/grpc.health.v1.Health/List": OPEN,
    "/grpc.health.v1.Health/Watch": OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANY,
    f"{_INFERENCE}/ServerLive": OPEN,
    f"{_INFERENCE}/ServerReady": OPEN,
    f"{_INFERENCE}/ServerMetadata": READ,
    f"{_INFERENCE}/ModelReady": READ,
    f"{_INFERENCE}/ModelMetadata": READ,
    f"{_INFERENCE}/ModelConfig": READ,
    f"{_INFERENCE}/ModelStatistics": READ,
    f"{_INFERENCE}/ModelInfer": PREDICT,
    f"{_INFERENCE}/RepositoryIndex": READ,
    f"{_INFERENCE}/RepositoryModelLoad": WRITE,
    f"{_INFERENCE}/RepositoryModelUnload": WRITE,
}

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def scope_of(rule: str, method: str) -> str | None:
    """What a route and method take: a scope, ANY or OPEN; None where nobody may."""
    methods = ROUTES.get(rule)
    if methods is None or method == "OPTIONS":
        return None if methods is None else ANY
    return methods.get("GET" if method == "HEAD" else method)


def changes(scope: str | None, method: str) -> bool:
    """Tell whether a request that takes this scope changes something, and is recorded."""
    return scope == WRITE or (scope in {TRAIN, ADMIN} and method not in _READING)
