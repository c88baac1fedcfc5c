"""Trains on the wine recognition data, as somebody would who has read the README."""

import csv
import json
import os

import numpy as np
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

with open(os.environ["MLBUFFET_DATASET"]) as file:  # noqa: PTH123
    rows = np.array(list(csv.reader(file))[1:], dtype=np.float32)
values, kinds = rows[:, :-1], rows[:, -1].astype(np.int64)
iterations = int(os.environ["MLBUFFET_PARAM_ITERATIONS"])
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations)).fit(values, kinds)
print(f"mlbuffet: metric accuracy={model.score(values, kinds):.3f} step=1")
with open(os.environ["MLBUFFET_METRICS_PATH"], "w") as file:  # noqa: PTH123
    file.write(json.dumps({"name": "classes", "value": 3}))
made = to_onnx(model, values[:1], options={"zipmap": False})
with open(os.environ["MLBUFFET_MODEL_PATH"], "wb") as file:  # noqa: PTH123
    file.write(made.SerializeToString())
