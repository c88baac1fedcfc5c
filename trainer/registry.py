"""Registers what a script has made, by the same door as everybody: the inferrer's upload. The one HTTP client here.

The run's id is the Idempotency-Key: however often it is tried, there is one version.
"""

import json
from pathlib import Path

import requests

from mlbuffet.transfer import Body, form
from trainer.engine import TrainingError
from trainer.runs import Reason, Run

_CONNECT_S, _ANSWER_S = 5.0, 660.0
_DENIED = frozenset({401, 403})


class RegistryUnavailableError(Exception):
    """The inferrer cannot take the model now; it may be asked again."""


class Registry:
    """The model repository, as a client sees it."""

    def __init__(self, url: str, key: str, ca: Path | None) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._verify: bool | str = str(ca) if ca is not None else True

    def upload(self, run: Run, model: Path) -> int:
        """Make a version of a run's model; returns its number.

        Raises:
            TrainingError: the model is refused, with the code and message of the refusal.
            RegistryUnavailableError: not now.
        """
        headers = {"Idempotency-Key": run.run_id}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url = f"{self._url}/api/v1/models/{run.wish.model}"
        try:
            with model.open("rb") as file, requests.Session() as session:
                session.trust_env = False  # neither ~/.netrc nor a proxy
                body = Body(file, form("path", self._fields(run)), None)
                headers |= {**body.headers, "X-Content-SHA256": body.digest}
                timeouts = _CONNECT_S, _ANSWER_S
                answer = session.put(
                    url, data=body, headers=headers, timeout=timeouts, verify=self._verify, allow_redirects=False
                )
            return _version(answer)
        except (requests.RequestException, ValueError, KeyError) as error:
            msg = f"the inferrer did not answer: {type(error).__name__}"
            raise RegistryUnavailableError(msg) from error

    def _fields(self, run: Run) -> dict[str, str]:
        wish, inputs = run.wish, run.inputs
        fields = {} if wish.description is None else {"model_description": wish.description}
        if not wish.activate:
            fields["activate"] = "false"
        if self._key:
            told = {
                "run_id": run.run_id,
                "script": inputs.script.sha256,
                "requirements": inputs.requirements.sha256,
                "dataset": {item.name: item.sha256 for item in inputs.dataset},
                "image_digest": run.image_digest,
                "parameters": dict(wish.parameters),
            }
            fields["run"] = json.dumps(told)
        return fields


def _version(answer: requests.Response) -> int:
    """What an answer says.

    Raises:
        TrainingError, RegistryUnavailableError: as `upload`.
        ValueError, KeyError: it is no answer of an inferrer.
    """
    if answer.status_code in {200, 201}:
        return int(answer.json()["version"])
    error = answer.json()["error"]
    code, message = str(error["code"]), str(error["message"])
    if answer.status_code in _DENIED:
        msg = f"the inferrer does not take models from this trainer: {message}"
        raise TrainingError(Reason.REGISTRATION_FAILED, msg)
    if error.get("retryable") or answer.status_code >= 500:  # noqa: PLR2004 - HTTP's
        msg = f"{code}: {message}"
        raise RegistryUnavailableError(msg)
    raise TrainingError(code, message)
