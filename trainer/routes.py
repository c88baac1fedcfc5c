"""The trainer's routes: the inferrer hands on what is asked of it, so they are the public ones."""

import re

from flask import Blueprint, Request, Response, request

from mlbuffet.chassis.web import answer
from mlbuffet.errors import BadRequestError
from trainer.follow import Followers
from trainer.output import pieces_of, read_metrics
from trainer.runs import Run, State
from trainer.training import Training

_PAGE = 1000
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def run_routes(training: Training) -> Blueprint:
    """Everything about runs."""
    routes = Blueprint("runs", __name__)
    routes.register_blueprint(_changing(training))
    routes.register_blueprint(_reading(training))
    return routes


def _changing(training: Training) -> Blueprint:
    routes = Blueprint("changing", __name__)

    @routes.post("/api/v1/train/<name>")
    def train(name: str) -> Response:
        """Train a model: run a script on a dataset, and register what it makes."""
        content_type = request.headers.get("Content-Type", "")
        run = training.submit(name, request.stream, content_type, _who(request), _key(request))
        return _accepted(run)

    @routes.post("/api/v1/runs/<run_id>/cancel")
    def cancel(run_id: str) -> Response:
        """Cancel a run."""
        return answer(training.cancel(run_id).shown())

    @routes.post("/api/v1/runs/<run_id>/retry")
    def retry(run_id: str) -> Response:
        """Run the same inputs again, as a new run."""
        return _accepted(training.retry(run_id, _who(request), _key(request)))

    @routes.delete("/api/v1/runs/<run_id>")
    def delete(run_id: str) -> Response:
        """Delete a run that has ended, with its inputs and its log."""
        training.delete(run_id)
        return answer({"deleted": run_id})

    return routes


def _reading(training: Training) -> Blueprint:
    routes = Blueprint("reading", __name__)
    followers = Followers(training.store)

    @routes.get("/api/v1/runs")
    def list_runs() -> Response:
        """List runs, the newest first."""
        limit = _number(request, "limit", _PAGE, 1, _PAGE)
        state = request.args.get("state", "")
        if state and state not in State.__members__:
            msg = f"state is one of {', '.join(State)}; received {state[:80]!a}"
            raise BadRequestError(msg)
        found, more = training.page(limit, request.args.get("after", ""), request.args.get("model", ""), state)
        return answer({"runs": [run.shown() for run in found], **({"next": more} if more else {})})

    @routes.get("/api/v1/runs/<run_id>")
    def show_run(run_id: str) -> Response:
        """Show a run."""
        return answer(training.store.get(run_id).shown())

    @routes.get("/api/v1/runs/<run_id>/metrics")
    def show_metrics(run_id: str) -> Response:
        """List the metrics that a run has told."""
        training.store.get(run_id)
        return answer({"run_id": run_id, "metrics": read_metrics(training.store.folder(run_id).metrics)})

    @routes.get("/api/v1/runs/<run_id>/logs")
    def show_log(run_id: str) -> Response:
        """Show a run's log, from an offset on, or follow it."""
        training.store.get(run_id)
        path = training.store.folder(run_id).log
        size = path.stat().st_size
        text = request.headers.get("Last-Event-ID") or request.args.get("offset", "0")
        offset = _bounded("offset", text, 0, size)
        if request.args.get("follow", "0") in {"1", "true"}:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return Response(followers.follow(run_id, offset), headers=headers, content_type="text/event-stream")
        headers = {"X-Log-Size": str(size), "X-Content-Type-Options": "nosniff"}
        return Response(pieces_of(path, offset), headers=headers, content_type="text/plain; charset=utf-8")

    return routes


def _accepted(run: Run) -> Response:
    return answer(run.shown(), 202, {"Location": f"/api/v1/runs/{run.run_id}"})


def _who(request: Request) -> str:
    """Who asks, as the inferrer says; nobody else may speak here."""
    return request.headers.get("X-MLBuffet-Who", "")[:80]


def _key(request: Request) -> str | None:
    text = request.headers.get("Idempotency-Key")
    if text is not None and not _KEY.fullmatch(text):
        msg = "Idempotency-Key has 1 to 255 visible ASCII characters"
        raise BadRequestError(msg)
    return text


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    return _bounded(name, request.args.get(name, str(default)), least, most)


def _bounded(name: str, text: str, least: int, most: int) -> int:
    """A number of a query.

    Raises:
        BadRequestError: it is none, or beyond the bounds.
    """
    if text.isascii() and text.isdecimal() and len(text) < 16 and least <= int(text) <= most:  # noqa: PLR2004
        return int(text)
    msg = f"{name} is a number from {least} to {most}; received {text[:80]!a}"
    raise BadRequestError(msg)
