"""The keys that count now, in one inferrer process. It follows the file, so that no restart is needed.

A counter that all processes have mapped tells of a change before it is answered: a new key counts at once, and a
revoked one no longer. What somebody has done to the file by hand is seen by a look once a second, and whenever a key
comes that is not known. Once there is a file, nobody passes without a key any more, whatever becomes of the file.
"""

import hmac
import logging
import threading
import time

from inferrer.rates import SHARED, Rate
from inferrer.sentkeys import find_key, sent_key
from inferrer.storage import storage_errors
from mlbuffet.errors import StorageUnavailableError
from mlbuffet.keys import READ, SCOPES, WRITE, Key, Wish
from mlbuffet.keystore import Keys, KeyStore, KeyStoreError

log = logging.getLogger(__name__)

ANONYMOUS, TRAINER = "anonymous", "trainer"
_MOST_SENT = 1024
FOLLOW_S = 1.0  # between two looks at the file
_NEVER = float("inf")

Sent = tuple[bytes | None, bytes | None]  # the values of Authorization and X-Api-Key


class Grant:
    """What one key may do, as long as it counts."""

    __slots__ = ("_rate", "ends_at", "scopes", "who")

    def __init__(self, who: str, scopes: frozenset[str], ends_at: float = _NEVER, rate: Rate | None = None) -> None:
        self.who = who
        self.scopes = scopes
        self.ends_at = ends_at
        self._rate = rate

    def counts(self) -> bool:
        """Tell whether the key is neither revoked nor expired."""
        return self.ends_at > time.time()

    def wait_s(self) -> float:
        """Count a request; how long it is too early, 0 where it may pass."""
        return 0.0 if self._rate is None else self._rate.wait_s(time.monotonic())

    def again(self) -> bool:
        """Count a request whose like has passed; tell whether it may too."""
        return self.ends_at > time.time() and (self._rate is None or not self._rate.wait_s(time.monotonic()))


class KeyRing:
    """Finds the key that a request carries. Safe to use from several threads.

    `trainer_key` is the trainer's own, which is no key of the repository and counts with and without such; "" is none.

    Raises:
        KeyStoreError: there are keys, but they cannot be read.
    """

    def __init__(self, store: KeyStore, trainer_key: str = "") -> None:
        self._store = store
        self._trainer_key = trainer_key.encode()
        self._trainer = Grant(TRAINER, frozenset({READ, WRITE}))
        self._open_trainer = Grant(TRAINER, frozenset(SCOPES))  # as long as there are no keys
        self._lock = threading.Lock()
        self._signature: tuple[int, ...] | None = None
        self._changes = store.changes()
        self._seen = -1
        self._told: tuple[int, ...] | str | None = None  # the state of the file that the log knows to be no good
        self._keys: Keys = {}
        self._grants: dict[str, Grant] = {}
        self._sent: dict[Sent, Grant] = {}
        self._closed = False
        self.anybody = Grant(ANONYMOUS, frozenset(SCOPES))  # as long as there are no keys
        self._follow()

    @property
    def closed(self) -> bool:
        """Tell whether nobody passes without a key any more."""
        self._keep_up()
        return self._closed

    def is_current(self) -> bool:
        """Tell whether the keys are those of the last change."""
        return self._changes[0] == self._seen

    def _keep_up(self) -> None:
        if self._changes[0] != self._seen:
            self.refresh()

    def find(self, authorization: bytes | None, api_key: bytes | None) -> Grant | None:
        """What the key in these header fields may do; None where there is none that counts."""
        self._keep_up()
        sent = authorization, api_key
        grant = self._sent.get(sent)
        if grant is not None and grant.counts():
            return grant
        text = sent_key(authorization, api_key)
        if text is None:
            return None
        if self._is_trainers(text):
            return self._trainer
        for _ in range(2):  # another thread may have replaced the grants in between
            grant = self._verified(text)
            if grant is None:
                return None
            if grant.counts():
                if len(self._sent) >= _MOST_SENT:
                    self._sent.pop(next(iter(self._sent), sent), None)
                self._sent[sent] = grant
                return grant
        return None

    def unasked(self, authorization: bytes | None, api_key: bytes | None) -> Grant:
        """What somebody may do while there are no keys, whatever is sent; it tells the trainer from the others."""
        if self._trainer_key and (authorization or api_key):
            text = sent_key(authorization, api_key)
            if text is not None and self._is_trainers(text):
                return self._open_trainer
        return self.anybody

    def _is_trainers(self, text: bytes) -> bool:
        return bool(self._trainer_key) and hmac.compare_digest(text, self._trainer_key)

    def _verified(self, text: bytes) -> Grant | None:
        """Check a key that was not seen before; it may be newer than what was read."""
        keys, grants = self._keys, self._grants
        key = find_key(keys, text, self._store.hashing_key())
        if key is None:
            self.refresh()
            if self._keys is keys:
                return None
            grants = self._grants
            key = find_key(self._keys, text, self._store.hashing_key())
        return None if key is None else grants.get(key.id)

    def all(self) -> list[Key]:
        """Every key, the oldest first."""
        self.refresh()
        return list(self._keys.values())

    def make(self, wish: Wish) -> tuple[Key, str]:
        """Make a key; returns what is kept of it, and the key itself. By then it counts in every process.

        Raises:
            UnprocessableError, ConflictError, StorageUnavailableError, StorageFullError: it cannot be made.
        """
        try:
            with storage_errors():
                return self._store.make(wish)
        except KeyStoreError as error:
            raise _unreadable(error) from error
        finally:
            self.refresh()

    def revoke(self, key_id: str) -> None:
        """Let a key count no longer, in any process.

        Raises:
            NotFoundError, ConflictError, StorageUnavailableError, StorageFullError: it cannot be revoked.
        """
        try:
            with storage_errors():
                self._store.revoke(key_id)
        except KeyStoreError as error:
            raise _unreadable(error) from error
        finally:
            self.refresh()

    def refresh(self) -> None:
        """Follow the file. Where it is no good the last good keys hold, and the log says so, once."""
        with self._lock:
            seen = self._changes[0]  # before the file is looked at: what comes in between is followed the next time
            try:
                self._follow()
            except (KeyStoreError, OSError) as error:
                state = self._state()
                if state != self._told:
                    self._told = state
                    log.error("keys not read", extra={"why": str(error), "hold": len(self._keys)})  # noqa: TRY400 - no bug
            self._seen = seen

    def _state(self) -> tuple[int, ...] | str | None:
        try:
            return self._store.signature() or "gone"
        except OSError as error:
            return str(error)

    def _follow(self) -> None:
        """Read the keys if the file is another one than before.

        Raises:
            KeyStoreError, OSError: that cannot be done.
        """
        signature = self._store.signature()
        if signature == self._signature:
            return
        keys = self._store.read()
        if keys is None:
            msg = "the file of keys is gone"
            raise KeyStoreError(msg)
        before, self._grants = self._grants, {key.id: _grant(key, slot) for slot, key in enumerate(keys.values())}
        self._keys, self._signature, self._told = keys, signature, None
        self._sent.clear()
        self._closed = True
        # Whoever holds one of these asks anew, and gets the present one.
        for grant in (self.anybody, self._open_trainer, *before.values()):
            grant.ends_at = 0.0
        log.info("keys read", extra={"keys": len(keys)})


def _grant(key: Key, slot: int) -> Grant:
    """What a key may do; every process counts its requests in the same slot."""
    return Grant(key.id, key.allowed, key.ends_at, Rate(key.rate, SHARED, slot) if key.rate else None)


def _unreadable(error: KeyStoreError) -> StorageUnavailableError:
    log.error("keys not changed", extra={"why": str(error)})
    return StorageUnavailableError("the keys cannot be read now; nothing was changed")
