"""What the routes stand on, made once per process by the composition root."""

from dataclasses import dataclass

from inferrer.controlplane import ControlPlane
from inferrer.dataplane import DataPlane
from inferrer.keyring import KeyRing
from inferrer.repository import Repository
from inferrer.settings import InferrerSettings
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
