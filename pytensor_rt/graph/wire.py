"""Walk the protobuf wire format of a model and cut the weights out, so that protobuf parses only the small rest.

`split` finds every large TensorProto payload (`raw_data`, or packed `float_data`/`double_data`, whose bytes are the same), wherever tensors
may be: initializers, sparse initializers, attributes of nodes, subgraphs and functions. In the rest the payload is replaced by
`TensorProto.segment = {begin, end}`: the byte span in the file. Nothing smaller than LARGE is descended into: it is copied as it is.
"""

from __future__ import annotations

import mmap

from ..errors import ModelError

LARGE = 1024  # bytes
MAX_GRAPH_DEPTH = 32

Buffer = mmap.mmap | bytes
Span = tuple[int, int]

# message -> {field number: message}; only the fields under which tensors may be found
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function", 20: "drop"},  # 20: training_info, not used for inference
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DATA_TYPE, _SEGMENT, _FLOAT_DATA, _RAW_DATA, _DOUBLE_DATA = 2, 3, 4, 9, 10
_PACKED_AS_RAW = {_FLOAT_DATA: (1, 14), _DOUBLE_DATA: (11, 15)}  # field -> element types whose little-endian bytes it holds


def split(buf: Buffer) -> tuple[bytes, set[Span]]:
    """(serialized ModelProto without the large payloads, the spans cut out). Raises ModelError naming the byte where `buf` is not protobuf."""
    walker = _Walker(buf)
    rest = walker.message("model", 0, len(buf), 0)
    return (buf[:] if rest is None else rest), walker.spans


def _encode(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _varint(buf: Buffer, i: int, end: int) -> tuple[int, int]:
    value = shift = 0
    start = i
    while True:
        if i >= end:
            raise ModelError(f"not an ONNX model, or cut off: a number at byte {start} runs past byte {end}")
        byte = buf[i]
        i += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, i
        shift += 7
        if shift > 63:
            raise ModelError(f"not an ONNX model: a number at byte {start} has more than 64 bits")


class _Walker:
    __slots__ = ("buf", "spans")

    def __init__(self, buf: Buffer) -> None:
        self.buf = buf
        self.spans: set[Span] = set()

    def field(self, i: int, end: int) -> tuple[int, int, int, int]:
        """(field number, wire type, start, end) of the payload of the field at byte i."""
        start = i
        key, i = _varint(self.buf, i, end)
        wire = key & 7
        if wire == 2:
            size, i = _varint(self.buf, i, end)
            stop = i + size
        elif wire == 0:
            _, stop = _varint(self.buf, i, end)
        elif wire == 1:
            stop = i + 8
        elif wire == 5:
            stop = i + 4
        else:
            raise ModelError(f"not an ONNX model: wire type {wire} at byte {start}")
        if stop > end:
            raise ModelError(f"not an ONNX model, or cut off: the field at byte {start} needs bytes up to {stop}, there are {end}")
        return key >> 3, wire, i, stop

    def message(self, kind: str, a: int, z: int, depth: int) -> bytes | None:
        """Bytes a..z of a message of `kind` without its large payloads, or None if it has none."""
        if kind == "tensor":
            return self.tensor(a, z)
        if kind == "drop":
            return b""
        if depth > MAX_GRAPH_DEPTH:
            raise ModelError(f"graphs nested more than {MAX_GRAPH_DEPTH} deep at byte {a}")
        buf, children = self.buf, _CHILDREN[kind]
        pieces: list[bytes] = []
        copied, i = a, a
        while i < z:
            start = i
            number, wire, s, i = self.field(i, z)
            if wire == 2 and i - s >= LARGE and number in children:
                child = children[number]
                rest = self.message(child, s, i, depth + (child == "graph"))
                if rest is not None:
                    pieces += (buf[copied:start], _encode(number << 3 | 2), _encode(len(rest)), rest)
                    copied = i
        if not pieces:
            return None
        pieces.append(buf[copied:z])
        return b"".join(pieces)

    def tensor(self, a: int, z: int) -> bytes | None:
        """A TensorProto with its one large payload replaced by a segment, or None if it has none."""
        buf = self.buf
        data_type = 0
        payloads: list[tuple[int, int, int, int]] = []  # (field number, start of field, start, end)
        i = a
        while i < z:
            start = i
            number, wire, s, i = self.field(i, z)
            if number == _DATA_TYPE and wire == 0:
                data_type, _ = _varint(buf, s, i)
            elif wire == 2 and number in (_RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA, _SEGMENT):
                payloads.append((number, start, s, i))
        if len(payloads) != 1:
            return None
        number, start, s, stop = payloads[0]
        if stop - s < LARGE or (number != _RAW_DATA and data_type not in _PACKED_AS_RAW.get(number, ())):
            return None
        self.spans.add((s, stop))
        segment = b"\x08" + _encode(s) + b"\x10" + _encode(stop)
        return b"".join((buf[a:start], _encode(_SEGMENT << 3 | 2), _encode(len(segment)), segment, buf[stop:z]))
