"""Trains a classifier of wines on a table and writes it as ONNX: a sample of what a training run runs.

Parameters: --c, the inverse strength of regularisation, and --iterations. MLBUFFET_DATASET says where the tables are,
MLBUFFET_MODEL_PATH where the model is to be.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    """Read the table, measure the model on what it has not seen, train it on all, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--c", type=float, default=1.0)
    parser.add_argument("--iterations", type=int, default=1000)
    options = parser.parse_args()

    tables = [np.loadtxt(path, delimiter=",", skiprows=1) for path in os.environ["MLBUFFET_DATASET"].split(os.pathsep)]
    table = np.concatenate(tables)
    features, classes = table[:, :-1].astype(np.float32), table[:, -1].astype(np.int64)

    model = make_pipeline(StandardScaler(), LogisticRegression(C=options.c, max_iter=options.iterations))
    accuracy = cross_val_score(model, features, classes, cv=5).mean()
    sys.stdout.write(f"{len(table)} wines, {features.shape[1]} measurements\n")
    sys.stdout.write(f"mlbuffet: metric accuracy={accuracy:.4f}\n")

    model.fit(features, classes)
    written = to_onnx(model, features[:1], options={"zipmap": False}, target_opset=17)
    Path(os.environ["MLBUFFET_MODEL_PATH"]).write_bytes(written.SerializeToString())


if __name__ == "__main__":
    main()
