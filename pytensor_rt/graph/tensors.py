"""TensorProto and SparseTensorProto as NumPy arrays: every element type and every encoding of the ONNX specification, nothing believed unchecked."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import BOOL, STRING, DType, from_code, type_name
from ..errors import ModelError
from .external import ExternalFiles
from .model import Array, Initializer
from .wire import LARGE, Bytes, Message

if TYPE_CHECKING:
    from onnx import SparseTensorProto, TensorProto

MAX_DENSE_BYTES = 1 << 31  # a sparse tensor of a few bytes may not ask for more
MAX_RANK = 64  # NumPy's limit

_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}  # element types that are packed several to a byte
_SIGNED = {22, 26}
# Typed fields: element type -> (field, dtype of its values); values then become the element type by their low bits.
_FIELDS: dict[int, tuple[str, Any]] = {
    1: ("float_data", np.float32), 14: ("float_data", np.float32), 11: ("double_data", np.float64), 15: ("double_data", np.float64),
    7: ("int64_data", np.int64), 12: ("uint64_data", np.uint64), 13: ("uint64_data", np.uint64),
}  # fmt: skip
_AS_RAW = {1, 11, 14, 15}  # floating types whose typed data are their little-endian bytes


class TensorReader:
    """Turns tensors of one model into Initializers. `data` is the whole file, of which large payloads are views, `mapping` what holds it."""

    __slots__ = ("base", "external", "mapping")

    def __init__(self, external: ExternalFiles, data: Bytes, mapping: mmap.mmap | None) -> None:
        self.external, self.mapping, self.base = external, mapping, _address(data)

    def read(self, t: TensorProto | Message) -> Initializer:
        """Raises ModelError (ExternalDataError for external data) naming the tensor."""
        name, code = t.name, t.data_type
        shape, count = _shape(t.dims, name)
        try:
            dtype = from_code(code)
        except (KeyError, AttributeError):
            raise ModelError(f"tensor '{name}': unknown element type {code}") from None
        bits = _BITS.get(code, 8 * dtype.itemsize)
        nbytes = (count * bits + 7) // 8
        mapping: mmap.mmap | None = None
        start = 0
        if t.data_location == 1:
            if dtype == STRING:
                raise ModelError(f"tensor '{name}': strings cannot be external data")
            entries = {e.key: e.value for e in t.external_data}
            raw, mapping, start = self.external.read(entries, nbytes, name)
        elif t.HasField("segment"):
            raise ModelError(f"tensor '{name}' is split into segments, which is not supported")
        else:
            payload = t.raw_data if t.HasField("raw_data") else _as_raw(t, code)
            if payload is None:
                return Initializer(_typed(t, code, dtype, shape, count))
            if isinstance(payload, np.ndarray):
                raw, mapping, start = payload, self.mapping, _address(payload) - self.base
            else:
                raw = np.frombuffer(payload, np.uint8)
        if dtype == STRING:
            raise ModelError(f"tensor '{name}': strings cannot be raw data")
        if raw.size != nbytes:
            raise ModelError(f"tensor '{name}': {type_name(code)}{list(shape)} needs {nbytes} bytes, there are {raw.size}")
        if bits < 8:
            return Initializer(_unpack(raw, code, dtype, count).reshape(shape))
        if dtype == BOOL and raw.size and raw.max() > 1:
            return Initializer((raw != 0).reshape(shape))
        source = None if mapping is None else (mapping, start, start + nbytes)
        return Initializer(raw.view(dtype).reshape(shape), mapping is not None, source)

    def read_sparse(self, t: SparseTensorProto | Message) -> tuple[str, Initializer]:
        """(name, the dense tensor). Indices are linear [n] or coordinates [n, rank], checked."""
        name = t.values.name
        shape, count = _shape(t.dims, name)
        values = self.read(t.values).array
        indices = self.read(t.indices).array
        if values.ndim != 1 or indices.dtype != np.int64:
            raise ModelError(
                f"sparse tensor '{name}': expected values of rank 1 and int64 indices, got rank {values.ndim} and {indices.dtype}"
            )
        n = len(values)
        if indices.shape == (n, len(shape)) and indices.ndim == 2:
            if n and not ((indices >= 0).all() and (indices < np.array(shape, np.int64)).all()):
                raise ModelError(f"sparse tensor '{name}': an index lies outside {list(shape)}")
            indices = np.ravel_multi_index(tuple(indices.T), shape) if n and shape else np.zeros(n, np.int64)
        elif indices.shape != (n,):
            raise ModelError(f"sparse tensor '{name}': indices of shape {list(indices.shape)} do not fit {n} values of {list(shape)}")
        if n and (indices.min() < 0 or indices.max() >= count):
            raise ModelError(f"sparse tensor '{name}': an index lies outside {list(shape)}")
        if count * values.dtype.itemsize > MAX_DENSE_BYTES:
            raise ModelError(f"sparse tensor '{name}' of shape {list(shape)} is too large to be made dense")
        dense = np.zeros(count, values.dtype) if values.dtype != STRING else np.full(count, "", object)
        dense[indices] = values
        return name, Initializer(dense.reshape(shape))


def _shape(dims: Any, name: str) -> tuple[tuple[int, ...], int]:
    shape = tuple(dims)
    if len(shape) > MAX_RANK:
        raise ModelError(f"tensor '{name}' has {len(shape)} dimensions, more than {MAX_RANK}")
    if shape and min(shape) < 0:
        raise ModelError(f"tensor '{name}' has a negative dimension: {list(shape)}")
    if math.prod(n for n in shape if n) >= 1 << 59:  # 16 bytes an element stay below 2**63
        raise ModelError(f"tensor '{name}' of shape {list(shape)} has too many elements")
    return shape, math.prod(shape)


def _address(data: Array) -> int:
    address: int = data.__array_interface__["data"][0]
    return address


def _as_raw(t: TensorProto | Message, code: int) -> Bytes | None:
    """The one large piece of typed data whose bytes are what raw data would be, or None."""
    if code not in _AS_RAW or not isinstance(t, Message):
        return None
    chunks = getattr(t, _FIELDS[code][0])
    return chunks[0].view(np.uint8) if len(chunks) == 1 and chunks[0].nbytes >= LARGE else None


def _stored(t: TensorProto | Message, field: str, dtype: Any) -> Array:
    """The values of a typed field."""
    values = getattr(t, field)
    if isinstance(t, Message):
        return np.concatenate(values).astype(dtype, copy=False) if len(values) else np.empty(0, dtype)
    return np.array(values, dtype)


def _typed(t: TensorProto | Message, code: int, dtype: DType, shape: tuple[int, ...], count: int) -> Array:
    """The value from float_data, int32_data, string_data and their like."""
    if dtype == STRING:
        strings = t.string_data
        _expect(len(strings), count, t.name, code, shape)
        out = np.empty(count, object)
        out[:] = [s.decode("utf-8", "surrogateescape") for s in strings]
        return out.reshape(shape)
    field, stored = _FIELDS.get(code, ("int32_data", np.int32))
    values = _stored(t, field, stored)
    if code in _BITS:
        raw = values.astype(np.uint8)
        _expect(raw.size, (count * _BITS[code] + 7) // 8, t.name, code, shape)
        return _unpack(raw, code, dtype, count).reshape(shape)
    if dtype.kind == "c":
        _expect(values.size, 2 * count, t.name, code, shape)
        return values.view(dtype).reshape(shape)
    _expect(values.size, count, t.name, code, shape)
    if dtype == BOOL:
        values = values != 0
    elif dtype != values.dtype:  # the low bits are the value: a half-precision float is stored as its bit pattern
        values = values.astype(np.dtype(f"u{dtype.itemsize}")).view(dtype)
    return values.reshape(shape)


def _expect(got: int, need: int, name: str, code: int, shape: tuple[int, ...]) -> None:
    if got != need:
        raise ModelError(f"tensor '{name}': {type_name(code)}{list(shape)} needs {need} stored values, there are {got}")


def _unpack(raw: Bytes, code: int, dtype: DType, count: int) -> Array:
    """Elements of 4 or 2 bits, lowest bits first, one per byte, as ml_dtypes keeps them: sign-extended for the signed integers."""
    bits = _BITS[code]
    per = 8 // bits
    out = np.empty((raw.size, per), np.uint8)
    for k in range(per):
        out[:, k] = (raw >> (k * bits)) & ((1 << bits) - 1)
    flat = out.reshape(-1)[:count]
    if code in _SIGNED:
        sign = np.uint8(1 << (bits - 1))
        flat = (flat ^ sign) - sign
    unpacked: Array = flat.view(dtype)
    return unpacked
