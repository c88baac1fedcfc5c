"""What the routes stand on, made once per process by the composition root."""

from dataclasses import dataclass, field
from threading import Event

from inferrer.controlplane import ControlPlane
from inferrer.dataplane import DataPlane
from inferrer.keyring import KeyRing
from inferrer.repository import Repository
from inferrer.settings import InferrerSettings
from inferrer.trainer import Trainer
from mlbuffet.index import Index


@dataclass(frozen=True, slots=True)
class Services:
    """One inferrer process."""

    settings: InferrerSettings
    repository: Repository
    index: Index
    dataplane: DataPlane
    controlplane: ControlPlane
    keys: KeyRing
    trainer: Trainer
    leaving: Event = field(default_factory=Event)  # set when this process is about to end

    @property
    def ready(self) -> bool:
        """Tell whether predictions are to be sent here: they can be answered, and will be for a while."""
        return not self.leaving.is_set() and bool(self.dataplane.replicas.ready())
