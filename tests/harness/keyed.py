"""A platform that asks for keys, and what every one of its processes says."""

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import requests

from mlbuffet.keyfile import write_keys
from mlbuffet.keys import Wish, new_key
from tests.harness.platform import RunningPlatform

HASHING_KEY = bytes(range(32))
_TRIES = 60


class FirstKeys:
    """Files as a deployment mounts them: the hashing key, and the hashes of the keys in `texts`, by their names."""

    def __init__(self, folder: Path, wishes: Mapping[str, Wish]) -> None:
        made = {name: new_key(wish, HASHING_KEY, datetime.now(UTC)) for name, wish in wishes.items()}
        self.texts = {name: text for name, (_, text) in made.items()}
        self.ids = {name: key.id for name, (key, _) in made.items()}
        (folder / "key_hash").write_text(HASHING_KEY.hex() + "\n")
        (folder / "first_keys.json").write_bytes(write_keys([key for key, _ in made.values()], HASHING_KEY))
        self.environment = {
            "INFERRER_KEY_HASH_FILE": str(folder / "key_hash"),
            "INFERRER_FIRST_KEYS": str(folder / "first_keys.json"),
        }


def bearer(text: str) -> dict[str, str]:
    """The header field that carries a key."""
    return {"Authorization": f"Bearer {text}"}


def make_key(platform: RunningPlatform, *scopes: str, **wish: object) -> tuple[str, str]:
    """Make a key by the platform's own; returns its id and text."""
    data = json.dumps({"name": "made", "scopes": scopes, **wish})
    answer = requests.post(f"{platform.url}/api/v1/keys", data=data, headers=platform.headers(), timeout=10)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], answer.json()["key"]


def everywhere(platform: RunningPlatform, ask: Callable[[], requests.Response]) -> set[int]:
    """The statuses that `ask`, on a fresh connection each time, gets from all inferrer processes."""
    asked: dict[str, int] = {}
    with ExitStack() as kept:
        for _ in range(_TRIES):
            answer = ask()
            asked[answer.headers["X-Request-Id"].partition("-")[0]] = answer.status_code
            if len(asked) == platform.workers:
                return set(asked.values())
            # Whoever takes this one has more than the others, who are to take the next.
            kept.enter_context(socket.create_connection(("127.0.0.1", platform.port)))
    msg = f"only {len(asked)} processes answered"
    raise AssertionError(msg)
