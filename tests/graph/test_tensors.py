"""Every element type in every encoding, against onnx.numpy_helper."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pytensor_rt.dtypes import from_code
from pytensor_rt.errors import ModelError
from pytensor_rt.graph import Initializer, load_model

CODES = [c for c in range(1, 27) if c != 8]
SHAPES = [(), (0,), (3,), (5, 7), (40, 30)]


def model_of(*tensors: TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", [t.name], [t.name + "_out"]) for t in tensors]
    outs = [onnx.ValueInfoProto(name=t.name + "_out") for t in tensors]
    graph = helper.make_graph(nodes, "g", [], outs, list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def load_one(tensor: TensorProto) -> Initializer:
    return load_model(model_of(tensor).SerializeToString()).graph.initializers[tensor.name]


def dtype_bits(code: int) -> int:
    return {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}.get(code, 8)


def random_array(code: int, shape: tuple[int, ...]) -> np.ndarray:
    dtype = from_code(code)
    rng = np.random.default_rng(code)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype).reshape(shape)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape) * 2).astype(dtype)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("code", CODES, ids=[TensorProto.DataType.Name(c) for c in CODES])
def test_every_dtype(code: int, shape: tuple[int, ...], raw: bool) -> None:
    tensor = numpy_helper.from_array(random_array(code, shape), "w")
    if not raw:
        field = helper.tensor_dtype_to_field(code)
        stored = helper.tensor_dtype_to_np_dtype(helper.tensor_dtype_to_storage_tensor_dtype(code))
        dtype = from_code(code)
        data = np.frombuffer(tensor.raw_data, np.uint8)
        if dtype_bits(code) == 8:
            data = data.view(
                {1: np.uint8, 2: np.uint16}.get(dtype.itemsize, stored) if stored == np.int32 and dtype.itemsize < 4 else dtype
            )
            data = data.view(stored) if dtype.kind == "c" else data
        tensor.ClearField("raw_data")
        getattr(tensor, field).extend(data.astype(stored if stored != np.int32 else data.dtype).tolist())
    want = numpy_helper.to_array(tensor)
    init = load_one(tensor)
    assert (init.shape, init.dtype) == (shape, from_code(code))
    got = init.array
    assert got.dtype == want.dtype and got.shape == want.shape
    assert not got.flags.writeable and got.flags.aligned
    if dtype_bits(code) < 8:  # compare values: the unused high bits of a byte are not the same everywhere
        got, want = got.astype(np.float32), want.astype(np.float32)
    assert got.tobytes() == want.tobytes()


def test_sign_extension_matches_ml_dtypes() -> None:
    values = np.arange(-8, 8).astype(ml_dtypes.int4)
    got = load_one(numpy_helper.from_array(values, "w")).array
    assert got.view(np.int8).tolist() == list(range(-8, 8))
    assert got.astype(np.int32).tolist() == list(range(-8, 8))


def test_strings_become_objects() -> None:
    got = load_one(helper.make_tensor("w", 8, (2, 2), ["a", "é", "", "日本"])).array
    assert got.dtype == object and got.shape == (2, 2)
    assert got.tolist() == [["a", "é"], ["", "日本"]]


def test_bool_bytes_are_zero_or_one() -> None:
    init = load_one(TensorProto(name="w", data_type=9, dims=[4], raw_data=b"\0\x01\x02\xff"))
    assert init.array.view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorProto(name="w", data_type=1, dims=[3], raw_data=b"1234"), "needs 12 bytes, there are 4"),
        (TensorProto(name="w", data_type=1, dims=[1], float_data=[1, 2]), "needs 1 stored values, there are 2"),
        (TensorProto(name="w", data_type=1, dims=[-1], raw_data=b""), "negative"),
        (TensorProto(name="w", data_type=1, dims=[1 << 40, 1 << 40], raw_data=b""), "too many"),
        (TensorProto(name="w", data_type=1, dims=[0, 1 << 62, 1 << 62], raw_data=b""), "too many"),
        (TensorProto(name="w", data_type=99, dims=[0]), "unknown element type 99"),
        (TensorProto(name="w", data_type=0, dims=[0]), "unknown element type 0"),
        (TensorProto(name="w", data_type=8, dims=[1], raw_data=b"x"), "strings cannot be raw"),
        (TensorProto(name="w", data_type=1, dims=[1] * 65, raw_data=b"1234"), "dimensions"),
        (TensorProto(name="w", data_type=1, dims=[1], segment=TensorProto.Segment(begin=0, end=4)), "segments"),
    ],
)
def test_bad_tensors(tensor: TensorProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_one(tensor)
    assert "'w'" in str(caught.value)


def sparse(values: np.ndarray, indices: np.ndarray, dims: list[int]) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(numpy_helper.from_array(values, "s"), numpy_helper.from_array(indices, "i"), dims)


def load_sparse(tensor: onnx.SparseTensorProto) -> np.ndarray:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["y"])], "g", [], [onnx.ValueInfoProto(name="y")], sparse_initializer=[tensor]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    return load_model(model.SerializeToString()).graph.initializers["s"].array


@pytest.mark.parametrize("linear", [False, True])
def test_sparse_initializer(linear: bool) -> None:
    indices = np.array([[0, 1], [2, 3]])
    got = load_sparse(sparse(np.array([5, 6], np.float32), indices @ [4, 1] if linear else indices, [3, 4]))
    want = np.zeros((3, 4), np.float32)
    want[0, 1], want[2, 3] = 5, 6
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("indices", "dims"),
    [
        (np.array([12]), [3, 4]),
        (np.array([-1]), [3, 4]),
        (np.array([[0, 4]]), [3, 4]),
        (np.array([1, 2]), [3, 4]),
        (np.array([0]), [1 << 40]),
    ],
)
def test_bad_sparse(indices: np.ndarray, dims: list[int]) -> None:
    with pytest.raises(ModelError, match="'s'"):
        load_sparse(sparse(np.array([5], np.float32), indices, dims))


def test_typed_fields_are_mapped_too(tmp_path) -> None:
    """Large packed float_data is byte for byte what raw_data would be."""
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    tensor = helper.make_tensor("w", 1, [1000], values)
    assert not tensor.HasField("raw_data")
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(tensor).SerializeToString())
    init = load_model(path).graph.initializers["w"]
    assert not init.unaligned.flags.owndata
    np.testing.assert_array_equal(init.array, values)


def test_mapped_only_if_aligned(tmp_path) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for pad in range(8):
        weight = rng.standard_normal(2000).astype(np.float32)
        tensor = numpy_helper.from_array(weight, "w" * (pad + 1))
        path = tmp_path / f"{pad}.onnx"
        path.write_bytes(model_of(tensor).SerializeToString())
        init = load_model(path).graph.initializers[tensor.name]
        assert not init.unaligned.flags.owndata  # no copy while loading, aligned or not
        assert init.mapped == init.unaligned.flags.aligned
        seen.add(init.mapped)
        assert init.array.flags.aligned
        assert init.array.flags.owndata == (not init.mapped)
        init.release()
        np.testing.assert_array_equal(init.array, weight)
    assert seen == {True, False}
