"""The modelhost's own HTTP routes, on loopback: health, what is loaded, metrics."""

from flask import Blueprint, Response

from mlbuffet.chassis.web import answer
from modelhost.inventory import Inventory
from modelhost.showing import pids, predictions


def modelhost_routes(host_id: str, inventory: Inventory) -> Blueprint:
    """What an operator may look at."""
    routes = Blueprint("modelhost", __name__)

    @routes.get("/")
    def show() -> Response:
        """Say who this is and what is loaded."""
        versions = [
            {
                "model": version.manifest.model,
                "version": version.manifest.version,
                "state": version.state,
                "reason": version.error.message if version.error else "",
                "memory_bytes": version.memory_bytes,
                "waiting": version.requests_here,
                "predictions": predictions(version),
                "restarts": version.statistics.restarts.total(),
                "pid": next(iter(pids(version)), 0),
                "pids": pids(version),
            }
            for version in list(inventory.hosted.values())
        ]
        return answer({"modelhost": host_id, "ready": inventory.ready, "versions": versions})

    return routes
