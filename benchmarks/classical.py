"""Classical machine learning against onnxruntime: scikit-learn, LightGBM and XGBoost models as their converters write them, trained on synthetic data.

python benchmarks/classical.py [model ...] [--threads 1] [--rows 1 100 5000] [--blocks 7]

Both runtimes in one process, in turns, onnxruntime's threads without spinning; medians of blocks, and the lowest and highest ratio of a pair. Needs skl2onnx, onnxmltools, lightgbm,
xgboost and onnxruntime; models whose packages are missing are named and left out. The files stay in ~/.cache/pytensor_rt/classical.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import pytensor_rt as rt

Array = np.ndarray[Any, Any]
CACHE = Path("~/.cache/pytensor_rt/classical").expanduser()
FEATURES, WORDS = (
    30,
    ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "small", "kernels", "wait", "for", "memory"],
)
COLORS = ["red", "green", "blue", "black"]


def table(classes: int) -> tuple[Array, Array]:
    from sklearn.datasets import make_classification

    x, y = make_classification(4000, FEATURES, n_informative=15, n_classes=classes, random_state=0)
    return x.astype(np.float32), y


def regression() -> tuple[Array, Array]:
    from sklearn.datasets import make_regression

    x, y = make_regression(4000, FEATURES, random_state=0)
    return x.astype(np.float32), (y / 100).astype(np.float32)


def sk(make: Callable[[], Any], data: Callable[[], tuple[Array, Array]], rows: int = 4000, maps: bool = False) -> Callable[[], bytes]:
    """The ONNX file of a scikit-learn estimator; `maps`: with ZipMap, the converter's default."""

    def build() -> bytes:
        from skl2onnx import to_onnx

        x, y = data()
        model = make().fit(x[:rows], y[:rows])
        options = {id(model): {"zipmap": False}} if not maps and hasattr(model, "classes_") and hasattr(model, "predict_proba") else None
        return bytes(to_onnx(model, x[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3}).SerializeToString())

    return build


def boosted(kind: str, trees: int, classes: int) -> Callable[[], bytes]:
    def build() -> bytes:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        x, y = table(classes) if classes else regression()
        initial = [("X", FloatTensorType([None, FEATURES]))]
        if kind == "lightgbm":
            import lightgbm

            options: dict[str, Any] = {"zipmap": False} if classes else {}
            model = (lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor)(n_estimators=trees, verbose=-1).fit(x, y)
            return bytes(onnxmltools.convert_lightgbm(model, initial_types=initial, target_opset=15, **options).SerializeToString())
        import xgboost

        model = (xgboost.XGBClassifier if classes else xgboost.XGBRegressor)(n_estimators=trees).fit(x, y)
        return bytes(onnxmltools.convert_xgboost(model, initial_types=initial, target_opset=15).SerializeToString())

    return build


def columns() -> bytes:
    """Numbers that are scaled beside strings that are one-hot encoded."""
    import pandas
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x, y = table(5)
    frame = pandas.DataFrame(x[:, :8], columns=[f"n{k}" for k in range(8)])
    for k in range(3):
        frame[f"c{k}"] = np.random.default_rng(k).choice(COLORS, len(frame))
    numbers, texts = [c for c in frame if c[0] == "n"], [c for c in frame if c[0] == "c"]
    encode = ColumnTransformer([("n", StandardScaler(), numbers), ("c", OneHotEncoder(handle_unknown="ignore"), texts)])
    model = make_pipeline(encode, LogisticRegression()).fit(frame, y)
    types = [(c, FloatTensorType([None, 1])) for c in numbers] + [(c, StringTensorType([None, 1])) for c in texts]
    options = {id(model.steps[-1][1]): {"zipmap": False}}
    return bytes(convert_sklearn(model, initial_types=types, options=options, target_opset={"": 17, "ai.onnx.ml": 3}).SerializeToString())


def text() -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(0)
    documents, labels = [" ".join(rng.choice(WORDS, 20)) for _ in range(500)], rng.integers(0, 2, 500)
    model = make_pipeline(TfidfVectorizer(lowercase=False, ngram_range=(1, 2)), LogisticRegression()).fit(documents, labels)
    options = {id(model.steps[-1][1]): {"zipmap": False}}
    types = [("text", StringTensorType([None, 1]))]
    return bytes(convert_sklearn(model, initial_types=types, options=options, target_opset={"": 17, "ai.onnx.ml": 3}).SerializeToString())


def models() -> dict[str, Callable[[], bytes]]:
    from sklearn import cluster, decomposition, ensemble, linear_model, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm

    def two() -> tuple[Array, Array]:
        return table(2)

    def five() -> tuple[Array, Array]:
        return table(5)

    return {
        "lightgbm classifier": boosted("lightgbm", 100, 5), "lightgbm regressor": boosted("lightgbm", 500, 0),
        "xgboost classifier": boosted("xgboost", 100, 5), "xgboost regressor": boosted("xgboost", 300, 0),
        "random forest": sk(lambda: ensemble.RandomForestClassifier(100, random_state=0), five),
        "random forest, depth 8, maps": sk(lambda: ensemble.RandomForestClassifier(100, max_depth=8, random_state=0), five, maps=True),
        "random forest regressor": sk(lambda: ensemble.RandomForestRegressor(100, random_state=0), regression),
        "gradient boosting": sk(lambda: ensemble.GradientBoostingClassifier(n_estimators=100, random_state=0), two),
        "isolation forest": sk(lambda: ensemble.IsolationForest(n_estimators=100, random_state=0), two),
        "logistic regression": sk(linear_model.LogisticRegression, five),
        "logistic regression, maps": sk(linear_model.LogisticRegression, two, maps=True),
        "linear regression": sk(linear_model.LinearRegression, regression), "linear SVC": sk(svm.LinearSVC, five),
        "polynomial features": sk(lambda: pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Ridge()), regression),
        "SVC, RBF, probabilities": sk(lambda: svm.SVC(probability=True, random_state=0), five, 1500), "SVR": sk(svm.SVR, regression, 2000),
        "k nearest neighbours": sk(neighbors.KNeighborsClassifier, five), "naive Bayes": sk(naive_bayes.GaussianNB, five),
        "MLP": sk(lambda: neural_network.MLPClassifier((100, 50), max_iter=30, random_state=0), five),
        "k means": sk(lambda: cluster.KMeans(10, random_state=0), two), "PCA": sk(lambda: decomposition.PCA(10), two),
        "columns of numbers and texts": columns, "tf-idf of words": text,
    }  # fmt: skip


def feed(session: Any, rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    out: dict[str, Array] = {}
    for i in session.get_inputs():
        if i.name == "text":
            out[i.name] = np.array([[" ".join(rng.choice(WORDS, 20))] for _ in range(rows)], object)
        elif "string" in i.type:
            out[i.name] = rng.choice(np.array(COLORS, object), (rows, 1))
        else:
            out[i.name] = (rng.standard_normal((rows, i.shape[1])) * 2).astype(np.float32)
    return out


def compare(path: Path, threads: int, rows: int, blocks: int) -> tuple[float, float, list[float]]:
    """(our microseconds, onnxruntime's, their ratio per pair of blocks)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    theirs = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ours = rt.InferenceSession(str(path), threads=threads)
    feeds = feed(theirs, rows)
    return paired(ours, theirs, feeds, blocks)


def paired(ours: Any, theirs: Any, feeds: dict[str, Array], blocks: int) -> tuple[float, float, list[float]]:
    """The same of two sessions, in blocks that take turns."""
    for session in (ours, theirs, ours, theirs):
        session.run(None, feeds)
    start = time.perf_counter()
    theirs.run(None, feeds)
    repeat = max(1, min(2000, int(0.05 / (time.perf_counter() - start))))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(blocks):
        for session, found in zip((ours, theirs), times):
            start = time.perf_counter()
            for _ in range(repeat):
                session.run(None, feeds)
            found.append((time.perf_counter() - start) / repeat * 1e6)
    return float(np.median(times[0])), float(np.median(times[1])), [b / a for a, b in zip(*times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="parts of names; all models if none is given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 100, 5000])
    parser.add_argument("--blocks", type=int, default=7)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    CACHE.mkdir(parents=True, exist_ok=True)
    ratios: list[float] = []
    print(f"{'model':32s}" + "".join(f"| {n:5d} rows: ours, onnxruntime us, ratio      " for n in args.rows))
    for name, build in models().items():
        if args.models and not any(part in name for part in args.models):
            continue
        path = CACHE / f"{name.replace(' ', '_').replace(',', '')}.onnx"
        try:
            if not path.exists():
                path.write_bytes(build())
        except ImportError as error:
            print(f"{name:32s}| left out: {error}")
            continue
        print(f"{name:32s}", end="", flush=True)
        for n in args.rows:
            ours, theirs, pairs = compare(path, args.threads, n, args.blocks)
            ratios.append(float(np.median(pairs)))
            print(f"| {ours:9.1f} {theirs:9.1f} {ratios[-1]:6.2f} ({min(pairs):5.2f} -{max(pairs):6.2f})", end="", flush=True)
        print()
    print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f}, lowest {min(ratios):.2f}")


if __name__ == "__main__":
    main()
