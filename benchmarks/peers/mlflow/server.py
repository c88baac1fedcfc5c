"""Saves the ONNX file in MLflow's own onnx flavour, then becomes `mlflow models serve`."""

import os
import sys
from pathlib import Path

import mlflow.onnx
import onnx


def main() -> None:
    """Serve until SIGTERM."""
    threads = {"intra_op_num_threads": int(os.environ["THREADS"]), "inter_op_num_threads": 1}
    model = onnx.load(os.environ["MODEL"])
    mlflow.onnx.save_model(model, "saved", onnx_session_options=threads, save_as_external_data=False)
    command = str(Path(sys.executable).with_name("mlflow"))
    options = ["--model-uri", "saved", "--env-manager", "local", "--port", os.environ["HTTP_PORT"]]
    os.execv(command, [command, "models", "serve", *options])  # noqa: S606 - it takes this one's place


if __name__ == "__main__":
    main()
