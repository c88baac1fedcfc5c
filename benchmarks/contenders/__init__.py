"""Every server that is compared, ours first."""

from benchmarks.contenders.bentoml import BentoML
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.kserve import KServe, QuietKServe
from benchmarks.contenders.litserve import LitServe
from benchmarks.contenders.mlflow import MLflow
from benchmarks.contenders.mlserver import MLServer, MLServerAsInstalled
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.pytriton import PyTriton

CONTENDERS: tuple[type[Contender], ...] = (
    Ours,
    MLServer,
    MLServerAsInstalled,
    QuietKServe,
    KServe,
    PyTriton,
    BentoML,
    LitServe,
    MLflow,
)
