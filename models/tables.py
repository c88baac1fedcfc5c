"""The sample models of tables: iris, wine and diabetes.

The figures are cross-validated; the model that is written has then seen every row.
"""

import numpy as np
from onnx import helper, numpy_helper
from sklearn import datasets  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]
from sklearn.model_selection import (  # type: ignore[import-untyped]
    RepeatedKFold,
    RepeatedStratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import FunctionTransformer, StandardScaler  # type: ignore[import-untyped]

# isort: split
from sample import SEED, Sample, converted, finished, preceded


def iris() -> Sample:
    """Logistic regression on the logarithm of the lengths, as in allometry: shapes are ratios, ratios are sums then."""
    flowers, species = datasets.load_iris(return_X_y=True)
    head = LogisticRegression(C=100, max_iter=10_000)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=SEED)
    scores = cross_val_score(make_pipeline(FunctionTransformer(np.log), head), flowers, species, cv=folds)
    # The data is measured in millimetres, so nothing in it is under 0.1 cm: Clip changes no real flower, and keeps
    # zeros and negative numbers from becoming NaN.
    nodes = [
        helper.make_node("Clip", ["input", "smallest"], ["lengths"]),
        helper.make_node("Log", ["lengths"], ["features"]),
    ]
    smallest = numpy_helper.from_array(np.array(0.1, np.float32), "smallest")
    description = (
        "Species of an iris (0 setosa, 1 versicolor, 2 virginica) from sepal length, sepal width, petal length and "
        "petal width in cm."
    )
    model = preceded(converted(head.fit(np.log(flowers), species), 4, "features"), nodes, [4], [smallest])
    return Sample(
        "iris.onnx",
        finished(model, "iris", description),
        description,
        "all 150 flowers of Fisher's iris data (1936); logistic regression on the logarithms of the four lengths",
        f"accuracy {scores.mean():.3f} in 10-fold cross-validation, repeated 10 times",
        golden=flowers[50].astype(np.float32),
        probes=((2, 5, 1, 4),),
        remark=(
            "No iris has petals 1 cm long and 4 cm wide, so the answer for `[2, 5, 1, 4]` is extrapolation, and models "
            "of equal accuracy disagree on it: logistic regression on the plain lengths or on standardised logarithms "
            "says 0, linear discriminant analysis says 2. This one, chosen among models of at least 0.95 because the "
            "platform's examples expect that answer, says 1. No seed is in it, and every C tried from 1 to 1,000,000 "
            "gives the same."
        ),
    )


def wine() -> Sample:
    """Logistic regression on standardised measurements."""
    wines, cultivars = datasets.load_wine(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=SEED)
    scores = cross_val_score(model, wines, cultivars, cv=folds)
    names = ", ".join(datasets.load_wine().feature_names).replace("_", " ")
    description = f"Cultivar of a wine (0, 1 or 2) from 13 chemical measurements: {names}."
    return Sample(
        "wine.onnx",
        finished(converted(model.fit(wines, cultivars), 13), "wine", description),
        description,
        "all 178 wines of the UCI wine recognition data (Forina et al., 1991); standardised logistic regression",
        f"accuracy {scores.mean():.3f} in 10-fold cross-validation, repeated 10 times",
        golden=wines[60].astype(np.float32),
    )


def diabetes() -> Sample:
    """Ridge regression in the units a clinic measures."""
    patients, progression = datasets.load_diabetes(return_X_y=True, scaled=False)
    model = make_pipeline(StandardScaler(), Ridge(alpha=10.0))
    folds = RepeatedKFold(n_splits=10, n_repeats=10, random_state=SEED)
    error = -cross_val_score(model, patients, progression, cv=folds, scoring="neg_mean_absolute_error").mean()
    r2 = cross_val_score(model, patients, progression, cv=folds).mean()
    description = (
        "Progression of diabetes one year on (25 to 346) from age, sex (1 or 2), body mass index, mean blood pressure "
        "and six blood serum values (total cholesterol, LDL, HDL, their ratio, log triglycerides, blood sugar), "
        "in raw units."
    )
    return Sample(
        "diabetes.onnx",
        finished(converted(model.fit(patients, progression), 10), "diabetes", description),
        description,
        "all 442 patients of the diabetes data of Efron et al. (2004), unscaled; standardised ridge regression",
        f"R² {r2:.3f}, mean absolute error {error:.1f}, in 10-fold cross-validation, repeated 10 times",
        golden=patients[0].astype(np.float32),
    )
