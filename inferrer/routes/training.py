"""The training routes: names are checked here; all else is the trainer's, and handed through unread."""

import re
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from inferrer.audit import concerns_run
from inferrer.services import Services
from inferrer.terms import check_encoding
from inferrer.trainer import Question, Reply
from mlbuffet.chassis.context import current_context, header_fields
from mlbuffet.chassis.forms import read_chunks
from mlbuffet.errors import BadRequestError, RunNotFoundError
from mlbuffet.names import parse_ref

_RUN = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{8}")
_ASKED = ("Content-Type", "Content-Length", "Idempotency-Key", "Last-Event-ID", "Accept")
_ANSWERED = (
    *("Content-Type", "Content-Length", "Location", "Retry-After", "Cache-Control"),
    *("X-Log-Size", "X-Accel-Buffering"),
)


def training_routes(services: Services) -> Blueprint:
    """Everything about training."""
    routes = Blueprint("training", __name__)
    routes.register_blueprint(_changing(services))
    routes.register_blueprint(_reading(services))
    return routes


def _changing(services: Services) -> Blueprint:
    routes = Blueprint("changing", __name__)

    @routes.post("/api/v1/train/<name>")
    def train_model(name: str) -> Response:
        """Train a model: run a script of yours on a dataset, and register what it makes.

        curl http://127.0.0.1:8002/api/v1/train/mine.onnx -F script=@models/training/train.py -F requirements=@models/training/requirements.txt -F dataset=@models/training/wine.csv
        """  # noqa: E501 - one line to copy
        ref = parse_ref(name)
        if ":" in name:
            msg = f"a training always makes a new version; give the bare name {ref.name!r}"
            raise BadRequestError(msg)
        check_encoding(request.headers.get("Content-Encoding", ""))
        reply = services.trainer.ask(_question(f"/api/v1/train/{ref.name}", with_body=True))
        return _begun(reply, ref.name)

    @routes.post("/api/v1/runs/<run_id>/cancel")
    def cancel_run(run_id: str) -> Response:
        """Cancel a training run; one that is cancelled already stays so.

        curl -X POST http://127.0.0.1:8002/api/v1/runs/20261129t131405-3f9c01aa/cancel
        """
        concerns_run(_checked(run_id))
        return _response(services.trainer.ask(_question(f"/api/v1/runs/{run_id}/cancel")))

    @routes.post("/api/v1/runs/<run_id>/retry")
    def retry_run(run_id: str) -> Response:
        """Run the same inputs again, as a new run.

        curl -X POST http://127.0.0.1:8002/api/v1/runs/20261129t131405-3f9c01aa/retry
        """
        return _begun(services.trainer.ask(_question(f"/api/v1/runs/{_checked(run_id)}/retry")))

    @routes.delete("/api/v1/runs/<run_id>")
    def delete_run(run_id: str) -> Response:
        """Delete a run that has ended, with its files and its log; a model that it made stays.

        curl -X DELETE http://127.0.0.1:8002/api/v1/runs/20261129t131405-3f9c01aa
        """
        concerns_run(_checked(run_id))
        return _response(services.trainer.ask(_question(f"/api/v1/runs/{run_id}")))

    return routes


def _reading(services: Services) -> Blueprint:
    routes = Blueprint("reading", __name__)

    @routes.get("/api/v1/runs")
    def list_runs() -> Response:
        """List the training runs, the newest first; `limit` and `after` page, `model` and `state` choose.

        curl http://127.0.0.1:8002/api/v1/runs
        """
        return _response(services.trainer.ask(_question("/api/v1/runs")))

    @routes.get("/api/v1/runs/<run_id>")
    def show_run(run_id: str) -> Response:
        """Show a run: state, reason, times, what went in and what came out.

        curl http://127.0.0.1:8002/api/v1/runs/20261129t131405-3f9c01aa
        """
        return _response(services.trainer.ask(_question(f"/api/v1/runs/{_checked(run_id)}")))

    @routes.get("/api/v1/runs/<run_id>/logs")
    def show_run_log(run_id: str) -> Response:
        """Show what a run has printed, from `offset` on; with `follow=1` also what it will, as server-sent events.

        curl http://127.0.0.1:8002/api/v1/runs/20261129t131405-3f9c01aa/logs
        """
        question = _question(f"/api/v1/runs/{_checked(run_id)}/logs")
        if request.args.get("follow", "0") in {"0", ""}:
            return _response(services.trainer.ask(question))
        return _response(services.trainer.follow(question, request.environ["mlbuffet.on_gone"]))

    @routes.get("/api/v1/runs/<run_id>/metrics")
    def show_run_metrics(run_id: str) -> Response:
        """List the metrics that a run has told.

        curl http://127.0.0.1:8002/api/v1/runs/20261129t131405-3f9c01aa/metrics
        """
        return _response(services.trainer.ask(_question(f"/api/v1/runs/{_checked(run_id)}/metrics")))

    return routes


def _checked(run_id: str) -> str:
    """Return what can be the id of a run.

    Raises:
        RunNotFoundError: it cannot.
    """
    if not _RUN.fullmatch(run_id):
        msg = f"there is no run {run_id[:80]!a}"
        raise RunNotFoundError(msg)
    return run_id


def _question(path: str, *, with_body: bool = False) -> Question:
    """The present request as the trainer gets it: with our word for who asks."""
    query = urlencode(list(request.args.items(multi=True)))
    headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
    if not with_body:
        headers.pop("Content-Length", None)
    headers |= header_fields(current_context.get()) | {"X-MLBuffet-Who": request.environ["mlbuffet.grant"].who}
    body = read_chunks(request.stream) if with_body else None
    return Question(request.method, f"{path}?{query}" if query else path, headers, body)


def _begun(reply: Reply, model: str | None = None) -> Response:
    """The answer to what makes a run, which the audit log names."""
    concerns_run((reply.header("Location") or "").rpartition("/")[2], model)
    return _response(reply)


def _response(reply: Reply) -> Response:
    """An answer of the trainer's as ours, its body as it comes."""
    found = {name: reply.header(name) for name in _ANSWERED}
    headers = {name: value for name, value in found.items() if value is not None}
    response = Response(reply.pieces(), reply.status, headers)
    response.call_on_close(reply.close)
    return response
