"""Read ONNX messages from protobuf's wire format, without protobuf.

`FIELDS` declares the messages: what this package reads of them and under which name; everything else in a file is skipped, and so is a field whose
wire type is not the declared one, as protobuf does. A `Message` has the names of the onnx package's classes and answers `HasField` and `WhichOneof`
like them, so code that builds graphs serves both.

What differs: raw data of at least `LARGE` bytes is a uint8 view of the file instead of a copy (weights are never read while loading), and the
typed data of tensors are lists of ndarrays. Small messages that are equal byte for byte may be one object: nobody may change a message.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ModelError
from .numbers import LONG, Numbers

LARGE = 1024  # bytes from which a payload stays in the file
SMALL = 4096  # bytes up to which a message is cut out of the file and read from a copy: reading a bytes object is faster than a mapping
MAX_DEPTH = 100  # messages inside messages, as in protobuf
_RUN = 16  # repeated numbers after which the rest is read with NumPy
_WINDOW = 256  # bytes of a first look at how far such a run goes
_SHARED = 64  # bytes up to which equal attributes and types are read once

File = mmap.mmap | bytes
Data = np.ndarray[tuple[Any, ...], np.dtype[Any]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# How a field is stored, the most frequent first
_TEXT, _TEXTS, _MESSAGE, _MESSAGES, _INT, _FLOAT, _BYTES, _PAYLOAD, _MANY_BYTES, _INTS, _INT_DATA, _FLOATS, _FLOAT_DATA, _DOUBLE_DATA = (
    range(14)
)
_FORMS = {
    "int": _INT, "float": _FLOAT, "text": _TEXT, "bytes": _BYTES, "payload": _PAYLOAD, "texts": _TEXTS, "bytes*": _MANY_BYTES, "ints": _INTS, "floats": _FLOATS,
    "float data": _FLOAT_DATA, "double data": _DOUBLE_DATA, "int data": _INT_DATA,
}  # fmt: skip
_WIRES = {_INT: (0,), _FLOAT: (5,), _INTS: (0, 2), _INT_DATA: (0, 2), _FLOATS: (5, 2), _FLOAT_DATA: (5, 2), _DOUBLE_DATA: (1, 2)}
_DEFAULTS: dict[int, Any] = {_INT: 0, _FLOAT: 0.0, _TEXT: "", _BYTES: b"", _PAYLOAD: b""}
_FIXED: dict[int, tuple[int, str]] = {_FLOATS: (4, "<f4"), _FLOAT_DATA: (4, "<f4"), _DOUBLE_DATA: (8, "<f8")}

# message -> field number -> (name, form); a form that is a message's name is that message, with * a list of them
FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "ModelProto": {
        1: ("ir_version", "int"), 2: ("producer_name", "text"), 3: ("producer_version", "text"), 4: ("domain", "text"),
        5: ("model_version", "int"), 6: ("doc_string", "text"), 7: ("graph", "GraphProto"), 8: ("opset_import", "OperatorSetIdProto*"),
        14: ("metadata_props", "StringStringEntryProto*"), 25: ("functions", "FunctionProto*"),
    },
    "OperatorSetIdProto": {1: ("domain", "text"), 2: ("version", "int")},
    "StringStringEntryProto": {1: ("key", "text"), 2: ("value", "text")},
    "GraphProto": {
        1: ("node", "NodeProto*"), 2: ("name", "text"), 5: ("initializer", "TensorProto*"), 10: ("doc_string", "text"),
        11: ("input", "ValueInfoProto*"), 12: ("output", "ValueInfoProto*"), 13: ("value_info", "ValueInfoProto*"),
        15: ("sparse_initializer", "SparseTensorProto*"),
    },
    "FunctionProto": {
        1: ("name", "text"), 4: ("input", "texts"), 5: ("output", "texts"), 6: ("attribute", "texts"), 7: ("node", "NodeProto*"),
        9: ("opset_import", "OperatorSetIdProto*"), 10: ("domain", "text"), 11: ("attribute_proto", "AttributeProto*"), 13: ("overload", "text"),
    },
    "NodeProto": {
        1: ("input", "texts"), 2: ("output", "texts"), 3: ("name", "text"), 4: ("op_type", "text"), 5: ("attribute", "AttributeProto*"),
        7: ("domain", "text"), 8: ("overload", "text"),
    },
    "AttributeProto": {
        1: ("name", "text"), 2: ("f", "float"), 3: ("i", "int"), 4: ("s", "bytes"), 5: ("t", "TensorProto"), 6: ("g", "GraphProto"),
        7: ("floats", "floats"), 8: ("ints", "ints"), 9: ("strings", "bytes*"), 10: ("tensors", "TensorProto*"), 11: ("graphs", "GraphProto*"),
        14: ("tp", "TypeProto"), 15: ("type_protos", "TypeProto*"), 20: ("type", "int"), 21: ("ref_attr_name", "text"),
        22: ("sparse_tensor", "SparseTensorProto"), 23: ("sparse_tensors", "SparseTensorProto*"),
    },
    "TensorProto": {
        1: ("dims", "ints"), 2: ("data_type", "int"), 3: ("segment", "Segment"), 4: ("float_data", "float data"), 5: ("int32_data", "int data"),
        6: ("string_data", "bytes*"), 7: ("int64_data", "int data"), 8: ("name", "text"), 9: ("raw_data", "payload"),
        10: ("double_data", "double data"), 11: ("uint64_data", "int data"), 13: ("external_data", "StringStringEntryProto*"),
        14: ("data_location", "int"),
    },
    "Segment": {1: ("begin", "int"), 2: ("end", "int")},
    "SparseTensorProto": {1: ("values", "TensorProto"), 2: ("indices", "TensorProto"), 3: ("dims", "ints")},
    "ValueInfoProto": {1: ("name", "text"), 2: ("type", "TypeProto")},
    "TypeProto": {
        1: ("tensor_type", "Tensor"), 4: ("sequence_type", "Sequence"), 5: ("map_type", "Map"), 7: ("opaque_type", "Opaque"),
        8: ("sparse_tensor_type", "Tensor"), 9: ("optional_type", "Sequence"),
    },
    "Tensor": {1: ("elem_type", "int"), 2: ("shape", "TensorShapeProto")},
    "Sequence": {1: ("elem_type", "TypeProto")},
    "Map": {1: ("key_type", "int"), 2: ("value_type", "TypeProto")},
    "Opaque": {1: ("domain", "text"), 2: ("name", "text")},
    "TensorShapeProto": {1: ("dim", "Dimension*")},
    "Dimension": {1: ("dim_value", "int"), 2: ("dim_param", "text")},
}  # fmt: skip
_EXCLUSIVE = {"TypeProto", "Dimension"}  # their fields are one oneof: the last one given is the only one
_SHARING = {"AttributeProto", "TypeProto"}


class Message:
    """A message: its fields as attributes, absent ones with their defaults (an empty tuple for repeated ones). Not to be changed."""

    kind: ClassVar[str]
    sharing: ClassVar[bool]
    exclusive: ClassVar[bool]
    table: ClassVar[dict[int, tuple[str, int, Any]]]  # key on the wire -> (attribute, form, message class)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def HasField(self, name: str) -> bool:
        return name in self.__dict__

    def WhichOneof(self, name: str) -> str | None:
        """The one field of a TypeProto or a Dimension that is there."""
        return next(iter(self.__dict__), None)


def _declare() -> dict[str, type[Message]]:
    classes: dict[str, type[Message]] = {
        kind: type(kind, (Message,), {"kind": kind, "sharing": kind in _SHARING, "exclusive": kind in _EXCLUSIVE, "table": {}})
        for kind in FIELDS
    }
    for kind, fields in FIELDS.items():
        cls = classes[kind]
        for number, (name, text) in fields.items():
            child = classes.get(text.rstrip("*"))
            form = _FORMS[text] if child is None else _MESSAGES if text.endswith("*") else _MESSAGE
            for wire in _WIRES.get(form, (2,)):
                cls.table[number << 3 | wire] = (name, form, child)
            setattr(cls, name, child() if form == _MESSAGE and child is not None else _DEFAULTS.get(form, ()))
    return classes


CLASSES = _declare()


def read_message(kind: str, content: File, data: Bytes) -> Message:
    """The message of this kind (a key of FIELDS) that `content` holds; `data` are the same bytes as an array, of which large payloads become views.

    Raises ModelError, naming the byte, if `content` is cut off, damaged or no message at all.
    """
    return Reader(data).read(CLASSES[kind], content, 0, len(content), 0, 0, True)


class Reader:
    """Reads the messages of one file."""

    __slots__ = ("data", "merged", "shared", "texts")

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.shared: dict[tuple[type[Message], bytes], Message] = {}
        self.merged: dict[int, Message] = {}
        self.texts: dict[bytes, str] = {}

    def read(
        self, cls: type[Message], buf: File, i: int, end: int, base: int, depth: int, whole: bool, into: Message | None = None
    ) -> Message:
        """The message in buf[i:end]; byte 0 of `buf` is byte `base` of the file. `whole`: buf is the file itself, not a piece cut out of it."""
        if depth > MAX_DEPTH:
            raise ModelError(f"messages nested more than {MAX_DEPTH} deep at byte {base + i}")
        message = cls() if into is None else into
        table, fields, texts, exclusive = cls.table, message.__dict__, self.texts, cls.exclusive
        try:
            while i < end:
                start = i
                key = buf[i]
                i += 1
                if key > 127:
                    key, i = _varint(buf, start, end, base)
                field = table.get(key)
                wire = key & 7
                if wire == 2:
                    n = buf[i]
                    i += 1
                    if n > 127:
                        n, i = _varint(buf, i - 1, end, base)
                    stop = i + n
                    if stop > end:
                        raise _cut(base + start, base + stop, base + end)
                    if field is not None:
                        name, form, child = field
                        if exclusive and name not in fields:
                            fields.clear()
                        if form <= _TEXTS:
                            raw = buf[i:stop]
                            text = texts.get(raw)
                            if text is None:
                                try:
                                    text = texts[raw] = raw.decode()
                                except UnicodeDecodeError:
                                    raise ModelError(f"damaged model: a name at byte {base + i} is not UTF-8 text") from None
                            if form == _TEXT:
                                fields[name] = text
                            elif name in fields:
                                fields[name].append(text)
                            else:
                                fields[name] = [text]
                        elif form <= _MESSAGES:
                            old = fields.get(name)
                            if form == _MESSAGE and old is not None:
                                value = self.merge(child, fields, name, buf, i, stop, base, depth, whole)
                            elif n <= _SHARED and child.sharing:
                                value = self.share(child, buf[i:stop], base + i, depth + 1)
                            elif whole and n <= SMALL:
                                value = self.read(child, buf[i:stop], 0, n, base + i, depth + 1, False)
                            else:
                                value = self.read(child, buf, i, stop, base, depth + 1, whole)
                            if form == _MESSAGE:
                                fields[name] = value
                            elif old is not None:
                                old.append(value)
                            else:
                                fields[name] = [value]
                        elif form == _PAYLOAD:
                            fields[name] = self.data[base + i : base + stop] if n >= LARGE else buf[i:stop]
                        elif form == _BYTES:
                            fields[name] = buf[i:stop]
                        elif form == _MANY_BYTES:
                            pieces = fields.setdefault(name, [])
                            pieces.append(buf[i:stop])
                            if len(pieces) & 63 == 0:
                                stop = _more_pieces(pieces, buf, stop, end, key)
                        else:
                            self.packed(fields, name, form, base + i, base + stop)
                    elif key < 8:
                        raise _no_field(base + start)
                    i = stop
                elif wire == 0:
                    n = buf[i]
                    i += 1
                    if n > 127:
                        n, i = _varint(buf, i - 1, end, base)
                        if n >= 1 << 63:
                            n -= 1 << 64
                    if field is not None:
                        name, form, _ = field
                        if form == _INT:
                            if exclusive:
                                fields.clear()
                            fields[name] = n
                        elif form == _INTS:
                            if name in fields:
                                numbers = fields[name]
                                if type(numbers) is list:
                                    numbers.append(n)
                                else:
                                    numbers = _extended(fields, name, np.array([n]))
                                if len(numbers) >= _RUN and end - i > _RUN:
                                    values, i = _run_of_numbers(self.data, base + i, base + end, key)
                                    _extended(fields, name, values)
                                    i -= base
                            else:
                                fields[name] = [n]
                        else:
                            values, i = _run_of_numbers(self.data, base + i, base + end, key)
                            fields.setdefault(name, []).append(np.concatenate((np.array([n]), values)))
                            i -= base
                    elif key < 8:
                        raise _no_field(base + start)
                elif wire == 5 or wire == 1:
                    stop = i + (4 if wire == 5 else 8)
                    if stop > end:
                        raise _cut(base + start, base + stop, base + end)
                    if field is not None:
                        name, form, _ = field
                        if form == _FLOAT:
                            fields[name] = struct.unpack("<f", buf[i:stop])[0]
                        else:
                            size, dtype = _FIXED[form]
                            found, stop = _run_of_fixed(self.data, base + i, base + end, key, size)
                            stop -= base
                            if form == _FLOATS:
                                _extended(fields, name, found.view(dtype))
                            else:
                                fields.setdefault(name, []).append(found.view(dtype))
                    elif key < 8:
                        raise _no_field(base + start)
                    i = stop
                else:
                    raise ModelError(f"not an ONNX model: wire type {wire} at byte {base + start}")
        except IndexError:
            raise _cut(base + start, base + end + 1, base + end) from None
        if i != end:
            raise _cut(base + start, base + i, base + end)
        return message

    def share(self, cls: type[Message], content: bytes, base: int, depth: int) -> Message:
        """Read a small message, or find one that was read before from the same bytes."""
        found = self.shared.get((cls, content))
        if found is None:
            found = self.shared[cls, content] = self.read(cls, content, 0, len(content), base, depth, False)
        return found

    def merge(
        self, cls: type[Message], fields: dict[str, Any], name: str, buf: File, i: int, stop: int, base: int, depth: int, whole: bool
    ) -> Message:
        """A field that should be there once is there again: protobuf merges the two."""
        old = fields[name]
        if cls.sharing and id(old) not in self.merged:
            from copy import deepcopy

            old = deepcopy(old)
            self.merged[id(old)] = old
        return self.read(cls, buf, i, stop, base, depth + 1, whole, old)

    def packed(self, fields: dict[str, Any], name: str, form: int, start: int, stop: int) -> None:
        """Repeated numbers in one piece, bytes start..stop of the file."""
        if form <= _INT_DATA:
            values = _numbers(self.data, start, stop)
        else:
            size, dtype = _FIXED[form]
            if (stop - start) % size:
                raise ModelError(f"damaged model: the numbers at byte {start} of {size} bytes each take {stop - start} bytes")
            values = self.data[start:stop].view(dtype)
        if form in (_INTS, _FLOATS):
            _extended(fields, name, values)
        else:
            fields.setdefault(name, []).append(values)


def _more_pieces(pieces: list[bytes], buf: File, i: int, end: int, key: int) -> int:
    """Appends the fields with this key (below 128) from byte i on that hold one of the last 64 pieces again; the byte after them.

    Lists of many texts have few different ones: the node modes of a forest."""
    known = {bytes((key, len(p))) + p: p for p in pieces[-64:] if len(p) < 128}
    if len(known) > 8:
        return i
    one = b"|".join(map(re.escape, known))  # (no alternative is the beginning of another: their lengths come first)
    stop = re.compile(b"(?:%b)*" % one, re.DOTALL).match(buf, i, end).end()  # type: ignore[union-attr]
    pieces += [known[field] for field in re.findall(one, buf[i:stop], re.DOTALL)]
    return stop


def _extended(fields: dict[str, Any], name: str, values: Data) -> Sequence[Any]:
    """A field of repeated numbers, with more of them. The first long run that a list meets makes an array of it."""
    old = fields.get(name, ())
    if len(values) >= LONG and len(old) <= _RUN:
        array = fields[name] = Numbers(np.concatenate([np.array(old, values.dtype), values]))
        return array
    numbers: list[Any] = (
        old if type(old) is list else list(old)
    )  # (an array whose field goes on elsewhere, which nobody writes, is no array any more)
    numbers += values.tolist()
    fields[name] = numbers
    return numbers


def _cut(start: int, stop: int, end: int) -> ModelError:
    return ModelError(f"not an ONNX model, or cut off: the field at byte {start} needs bytes up to {stop}, there are {end}")


def _no_field(start: int) -> ModelError:
    return ModelError(f"not an ONNX model: no field has the number 0, as at byte {start}")


def _varint(buf: File, i: int, end: int, base: int) -> tuple[int, int]:
    """(the unsigned number at byte i of buf, the byte after it)."""
    value = shift = 0
    start = i
    while True:
        if i >= end:
            raise ModelError(f"not an ONNX model, or cut off: a number at byte {base + start} runs past byte {base + end}")
        byte = buf[i]
        i += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                raise ModelError(f"not an ONNX model: a number at byte {base + start} has more than 64 bits")
            return value, i
        shift += 7
        if shift > 63:
            raise ModelError(f"not an ONNX model: a number at byte {base + start} has more than 64 bits")


def _decode(data: Bytes, first: Data, last: Data) -> Data:
    """The int64 numbers in bytes first[k]..last[k] of data, most significant part last."""
    length = last - first + 1
    longest = int(length.max(initial=1))
    if longest > 10 or (longest == 10 and (data[last[length == 10]] > 1).any()):
        raise ModelError("not an ONNX model: a number has more than 64 bits")
    out = np.zeros(len(first), np.uint64)
    for k in range(longest):
        here = length > k
        part = data[np.where(here, first + k, last)].astype(np.uint64) & np.uint64(127)
        out |= np.where(here, part << np.uint64(7 * k), np.uint64(0))
    return out.view(np.int64)


def _numbers(data: Bytes, start: int, stop: int) -> Data:
    """The numbers that fill bytes start..stop."""
    piece = data[start:stop]
    if piece.size and piece[-1] > 127:
        raise ModelError(f"not an ONNX model, or cut off: a number runs past byte {stop}")
    last = np.flatnonzero(piece < 128)
    if len(last) == piece.size:
        return piece.astype(np.int64)
    first = np.concatenate((np.zeros(1, last.dtype), last[:-1] + 1))
    return _decode(piece, first, last)


def _run_of_numbers(data: Bytes, start: int, end: int, key: int) -> tuple[Data, int]:
    """(the numbers, the byte after them) of the fields with this key (below 128) that follow each other from byte `start` on; maybe none."""
    window = _WINDOW
    while True:
        piece = data[start : min(start + window, end)]
        ends = np.flatnonzero(piece < 128)
        keys, last = ends[0::2][: len(ends) // 2], ends[1::2]
        wrong = np.flatnonzero((keys != np.concatenate((last[:0], [0], last[:-1] + 1))[: len(keys)]) | (piece[keys] != key))
        n = int(wrong[0]) if len(wrong) else len(keys)
        if n < len(keys) or start + window >= end:
            break
        window *= 4
    if n == 0:
        return np.empty(0, np.int64), start
    return _decode(piece, keys[:n] + 1, last[:n]), start + int(last[n - 1]) + 1


def _run_of_fixed(data: Bytes, start: int, end: int, key: int, size: int) -> tuple[Bytes, int]:
    """(the bytes, the byte after them) of the number at byte `start` and of those of all fields with the same key (below 128) that follow it."""
    step, window = size + 1, _WINDOW
    while True:
        n = min(window, 1 + (end - start - size) // step)
        follow = data[start + size : start + size + (n - 1) * step].reshape(n - 1, step)
        wrong = np.flatnonzero(follow[:, 0] != key)
        if len(wrong) or n < window:
            break
        window *= 4
    n = 1 + (int(wrong[0]) if len(wrong) else n - 1)
    return np.concatenate((data[start : start + size], follow[: n - 1, 1:].reshape(-1))), start + n * step - 1
