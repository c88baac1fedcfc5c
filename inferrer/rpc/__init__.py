"""gRPC: the Open Inference Protocol's service, health and reflection, off the same data plane as HTTP."""

import logging
import os

# Read when grpc is imported. What its core says on standard error is no JSON; and no process that uses it is forked.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it writes tracebacks of what clients did; we log each call
