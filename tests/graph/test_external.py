"""External data: found in the model's folder, refused anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from pytensor_rt.errors import ExternalDataError
from pytensor_rt.graph import load_model

from .test_tensors import model_of

WEIGHT = np.arange(1000, dtype=np.float32)


def external(**entries: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=1, dims=[1000], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(folder: Path, tensor: TensorProto) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(model_of(tensor).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (folder / "data.bin").write_bytes(b"head" + WEIGHT.tobytes() + b"tail")
    return folder


def test_reads_and_maps(folder: Path) -> None:
    path = save(folder, external(location="data.bin", offset="4", length="4000"))
    model = load_model(path)
    init = model.graph.initializers["w"]
    assert init.mapped and len(model.mappings) == 2
    np.testing.assert_array_equal(init.array, WEIGHT)


def test_as_onnx_writes_it(tmp_path: Path) -> None:
    model = model_of(numpy_helper.from_array(WEIGHT, "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    np.testing.assert_array_equal(load_model(str(tmp_path / "m.onnx")).graph.initializers["w"].array, WEIGHT)


def test_length_and_offset_default(folder: Path) -> None:
    (folder / "plain").write_bytes(WEIGHT.tobytes())
    np.testing.assert_array_equal(load_model(save(folder, external(location="plain"))).graph.initializers["w"].array, WEIGHT)


def test_bytes_need_a_folder(folder: Path) -> None:
    content = save(folder, external(location="data.bin", offset="4")).read_bytes()
    with pytest.raises(ExternalDataError, match=r"'w'.*base_dir"):
        load_model(content)
    with pytest.raises(ExternalDataError, match=r"'w'.*base_dir"):
        load_model(onnx.ModelProto.FromString(content))
    np.testing.assert_array_equal(load_model(content, base_dir=folder).graph.initializers["w"].array, WEIGHT)


@pytest.mark.parametrize("location", ["../secret", "a/../../secret", "..\\secret", "C:\\secret", "", "x\0y"])
def test_paths_outside_are_refused(folder: Path, location: str) -> None:
    with pytest.raises(ExternalDataError, match=r"'w'.*not a path inside"):
        load_model(save(folder, external(location=location)))


def test_absolute_path_is_refused(folder: Path) -> None:
    with pytest.raises(ExternalDataError, match=r"'w'.*not a path inside"):
        load_model(save(folder, external(location=str(folder / "data.bin"))))


@pytest.mark.parametrize("through", ["file", "folder"])
def test_links_outside_are_refused(folder: Path, through: str) -> None:
    if through == "file":
        (folder / "link").symlink_to("../secret")
        location = "link"
    else:
        (folder / "sub").symlink_to("..")
        location = "sub/secret"
    with pytest.raises(ExternalDataError, match=r"'w'.*outside the model's folder"):
        load_model(save(folder, external(location=location)))


def test_links_inside_are_followed(folder: Path) -> None:
    (folder / "link").symlink_to("data.bin")
    load_model(save(folder, external(location="link", offset="4")))


def test_download_cache(tmp_path: Path, folder: Path) -> None:
    """Caches keep blobs in one folder and link both the model and its data to them."""
    save(folder, external(location="weights.data", offset="4"))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.onnx").symlink_to("../model/m.onnx")
    (snapshot / "weights.data").symlink_to("../model/data.bin")
    np.testing.assert_array_equal(load_model(snapshot / "model.onnx").graph.initializers["w"].array, WEIGHT)


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing", "device"])
def test_only_regular_files(folder: Path, kind: str) -> None:
    path = folder / "odd"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(ExternalDataError, match="'w'"):
        load_model(save(folder, external(location="odd")))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "9"},
        {"offset": "-4"},
        {"offset": "4", "length": "4004"},
        {"offset": "4", "length": "3996"},
        {"length": "x"},
        {"offset": "9223372036854775807"},
        {"offset": "1" * 30},
        {"offset": "٤"},
    ],
    ids=str,
)
def test_bad_spans(folder: Path, entries: dict[str, str]) -> None:
    with pytest.raises(ExternalDataError, match="'w'"):
        load_model(save(folder, external(location="data.bin", **entries)))


def test_empty_file(folder: Path) -> None:
    (folder / "none").touch()
    with pytest.raises(ExternalDataError, match="'w'"):
        load_model(save(folder, external(location="none")))
