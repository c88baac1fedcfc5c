"""PyTriton: NVIDIA's Triton server, which its wheel ships, around a Python function."""

import sysconfig
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import oip
from benchmarks.contenders.contender import Peer, Place, Request
from benchmarks.processes import CORES
from benchmarks.workloads import Workload


class PyTriton(Peer):
    """Triton with its dynamic batcher."""

    name = "PyTriton"
    key = "pytriton"
    what = (
        "Triton's HTTP server, dynamic batcher up to 32 rows; for `image` a session a core and no batches; "
        "V2 JSON and V2 binary"
    )
    environment = "pytriton"
    packages = ("nvidia-pytriton", "numpy", "onnxruntime")
    sessions = CORES

    def settings(self, place: Place) -> Mapping[str, str]:
        """Triton's process takes this interpreter's own libpython; another one does not fit its standard library."""
        return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")), "PYTRITON_HOME": str(place.folder)}

    def request(self, workload: Workload, encoding: str) -> Request:
        """V2 in both encodings."""
        return oip.infer(workload, encoding)

    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:
        """V2 in both encodings."""
        return oip.answer(body, headers)
