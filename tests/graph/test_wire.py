"""The wire-format reader against protobuf's own: every model of ONNX's suite, random messages in every encoding, damaged files."""

from __future__ import annotations

import os
import random
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from pytensor_rt.errors import ModelError
from pytensor_rt.graph import wire
from pytensor_rt.graph.export import attribute_proto
from pytensor_rt.graph.numbers import Numbers

CASES = sorted(Path(onnx.backend.test.__file__).parent.glob("data/*/*/model.onnx"))


def read(kind: str, content: bytes) -> wire.Message:
    return wire.read_message(kind, content, np.frombuffer(content, np.uint8))


def same(ours: wire.Message, theirs: Any, where: str) -> None:
    """Every declared field of ours is theirs, absent ones included."""
    declared = {name for name, _ in wire.FIELDS[ours.kind].values()}
    for field in theirs.DESCRIPTOR.fields:
        if field.name not in declared:
            continue
        path = f"{where}.{field.name}"
        got, want = getattr(ours, field.name), getattr(theirs, field.name)
        many = field.is_repeated
        if not many:
            assert ours.HasField(field.name) == theirs.HasField(field.name), path
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            assert len(got if many else [got]) == len(want if many else [want]), path
            for k, (g, w) in enumerate(zip(got, want) if many else [(got, want)]):
                if many or theirs.HasField(field.name):
                    same(g, w, f"{path}[{k}]")
        elif many and len(got) and isinstance(got[0], np.ndarray):
            values = np.concatenate(got)
            stored = {"int32_data": np.int32, "uint64_data": np.uint64}.get(field.name, values.dtype)
            assert values.astype(stored).tobytes() == np.array(want, stored).tobytes(), path
        elif isinstance(got, np.ndarray):
            assert got.tobytes() == want, path
        else:
            assert repr(list(got) if many else got) == repr(list(want) if many else want), path  # NaN equals itself, 0.0 is not -0.0
    for group in theirs.DESCRIPTOR.oneofs:
        assert ours.WhichOneof(group.name) == theirs.WhichOneof(group.name), where


def same_model(content: bytes) -> None:
    same(read("ModelProto", content), onnx.ModelProto.FromString(content), "model")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_model_of_the_suite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        made = [case.model.SerializeToString() for case in collect_testcases(None)]
    contents = [*made, *(path.read_bytes() for path in CASES)]
    assert len(contents) > 1500
    for content in contents:
        same_model(content)


def test_every_cached_model() -> None:
    """Published models and exports, if some were downloaded or made on this machine."""
    cache = Path(os.environ.get("PTRT_ZOO", Path.home() / ".cache/pytensor_rt/zoo")).parent
    paths = [p for p in (*cache.glob("zoo/*.onnx"), *cache.glob("architectures/*small*/model.onnx")) if p.stat().st_size < 100 << 20]
    if not paths:
        pytest.skip("no models in the cache")
    for path in paths:
        same_model(path.read_bytes())


def test_declared_fields_are_those_of_onnx() -> None:
    nested = {
        "Segment": onnx.TensorProto,
        "Tensor": onnx.TypeProto,
        "Sequence": onnx.TypeProto,
        "Map": onnx.TypeProto,
        "Opaque": onnx.TypeProto,
    }
    for kind, fields in wire.FIELDS.items():
        owner = onnx.TensorShapeProto if kind == "Dimension" else nested.get(kind, onnx)
        by_number = getattr(owner, kind).DESCRIPTOR.fields_by_number
        for number, (name, form) in fields.items():
            assert by_number[number].name == name
            assert by_number[number].is_repeated == (form[-1] == "*" or form in ("texts", "ints", "floats") or form.endswith("data")), name


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def scalar(number: int, n: int) -> bytes:
    return varint(number << 3) + varint(n)


def block(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


INTEGERS = (0, 1, -1, 127, 128, 300, -300, 2**31, 2**63 - 1, -(2**63))


def integers(rng: random.Random, n: int) -> list[int]:
    return [
        rng.choice(INTEGERS) if rng.random() < 0.3 else rng.randrange(-(2 ** rng.randrange(1, 63)), 2 ** rng.randrange(1, 63))
        for _ in range(n)
    ]


@pytest.mark.parametrize("count", [0, 1, 3, 15, 16, 17, 60, 400, 5000])
@pytest.mark.parametrize("seed", range(6))
def test_repeated_numbers_packed_and_not(seed: int, count: int) -> None:
    """Packed, unpacked, in several pieces, and with other fields between: as protobuf reads them."""
    rng = random.Random(seed)
    values = integers(rng, count)
    reals = [rng.uniform(-9, 9) for _ in range(count)]

    def numbers(number: int, real: str = "") -> bytes:
        """The values as fields with this number, in pieces of random sizes and encodings."""
        out, at = b"", 0
        while at < count:
            n = rng.choice((1, 2, count, count // 2 + 1))
            piece = reals[at : at + n] if real else values[at : at + n]
            one = [struct.pack(f"<{real}", v) if real else varint(v) for v in piece]
            if rng.random() < 0.5:
                out += block(number, b"".join(one))
            else:
                key = varint(number << 3 | {"": 0, "f": 5, "d": 1}[real])
                out += b"".join(key + v for v in one)
            if rng.random() < 0.3:
                out += block(99, b"unknown") + scalar(98, 5) + varint(97 << 3 | 5) + bytes(4)
            at += n
        return out

    for kind, content in (
        ("TensorProto", numbers(1) + numbers(7) + block(8, b"name") + numbers(11) + numbers(4, "f") + numbers(10, "d") + numbers(5)),
        ("AttributeProto", block(1, b"a") + numbers(8) + numbers(7, "f") + scalar(20, 7)),
    ):
        theirs = getattr(onnx, kind).FromString(content)
        assert len(theirs.ListFields()) >= (2 if count else 1)
        same(read(kind, content), theirs, kind)
        tail = block(5, theirs.SerializeToString()) if kind == "TensorProto" else block(1, block(5, content))
        same(read("GraphProto", tail), onnx.GraphProto.FromString(tail), "graph")


@pytest.mark.parametrize("seed", range(6))
def test_long_lists_of_numbers_and_texts(seed: int) -> None:
    """Lists that are read in one go, interrupted, packed and not, of few and of many different texts."""
    rng = random.Random(seed)
    texts = [rng.randbytes(rng.choice([0, 1, 4, 10, 127, 128, 300])) for _ in range(rng.choice([1, 2, 8, 9, 40]))] + [b"J\x04LEAF"]
    parts = []
    for _ in range(rng.randrange(1, 5)):
        parts.append(b"".join(scalar(8, n) for n in integers(rng, rng.choice([3, 1100, 3000]))))
        parts.append(block(8, b"".join(varint(n) for n in integers(rng, rng.choice([2, 1100])))))
        parts.append(b"".join(b"\x3d" + struct.pack("<f", rng.gauss(0, 1)) for _ in range(rng.choice([1, 20, 2000]))))
        parts.append(b"".join(block(9, rng.choice(texts)) for _ in range(rng.choice([1, 63, 65, 500]))))
    rng.shuffle(parts)
    content = b"".join(parts)
    same(read("AttributeProto", content), onnx.AttributeProto.FromString(content), "attribute")
    for cut in rng.sample(range(len(content)), 20):
        refused_or_same("AttributeProto", content[:cut])


def test_numbers_behave_like_a_tuple() -> None:
    values = np.arange(2000, dtype=np.float32) / 3
    numbers, plain = Numbers(values), tuple(values.tolist())
    assert len(numbers) == 2000 and numbers == plain and hash(numbers) == hash(plain) and list(numbers) == list(plain)
    assert numbers[7] == plain[7] and type(numbers[7]) is float and numbers[5:9] == plain[5:9] and numbers[-1] == plain[-1]
    assert np.array(numbers).dtype == np.float64 and np.array(numbers, np.float32).tobytes() == values.tobytes()
    assert np.array(Numbers(np.arange(3))).dtype == np.int64 and not Numbers(np.zeros(0)) and 5 in Numbers(np.arange(9))
    proto = attribute_proto("a", Numbers(np.arange(3)))
    assert list(proto.ints) == [0, 1, 2]


def test_fields_given_twice_are_merged() -> None:
    tensor = onnx.TypeProto.Tensor(elem_type=1)
    first = onnx.TypeProto(tensor_type=tensor).SerializeToString()
    shape = onnx.TypeProto.Tensor(shape=onnx.TensorShapeProto(dim=[{"dim_value": 3}]))
    more = onnx.TypeProto(tensor_type=shape).SerializeToString()
    sequence = onnx.TypeProto(sequence_type=onnx.TypeProto.Sequence(elem_type=onnx.TypeProto(tensor_type=tensor))).SerializeToString()
    infos = b""
    for types in ([first, more], [first], [first, more, more], [first, sequence], [sequence, first], [sequence, sequence], [sequence]):
        infos += block(11, block(1, b"x") + b"".join(block(2, t) for t in types))
    same(read("GraphProto", infos), onnx.GraphProto.FromString(infos), "graph")
    attribute = block(1, b"a") + block(5, scalar(1, 2)) + block(5, scalar(1, 3) + scalar(2, 1)) + scalar(3, 1) + scalar(3, 2)
    same(read("AttributeProto", attribute), onnx.AttributeProto.FromString(attribute), "attribute")
    model = block(7, block(1, block(4, b"Relu"))) + scalar(1, 8) + block(7, block(2, b"g") + block(1, block(4, b"Exp")))
    same_model(model)


def test_wrong_wire_types_are_skipped() -> None:
    node = scalar(1, 5) + varint(2 << 3 | 5) + bytes(4) + varint(4 << 3 | 1) + bytes(8) + block(3, b"n")
    same(read("NodeProto", node), onnx.NodeProto.FromString(node), "node")
    attribute = block(3, b"xy") + scalar(2, 7) + varint(8 << 3 | 5) + bytes(4) + block(20, b"") + block(1, b"a")
    same(read("AttributeProto", attribute), onnx.AttributeProto.FromString(attribute), "attribute")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x07", "wire type 7 at byte 0"),
        (b"\x3a\x02\x0b\x00", "wire type 3 at byte 2"),
        (b"\x00\x00", "number 0, as at byte 0"),
        (b"\x3a\x02\x02\x00", "number 0, as at byte 2"),
        (b"\x3a\x05abc", "needs bytes up to 7, there are 5"),
        (b"\x3a\x04\x0a\x09ab", "needs bytes up to 13, there are 6"),
        (b"\x3a", "cut off"),
        (b"\x08", "cut off"),
        (b"\x08\x80", "cut off"),
        (b"\x08" + b"\xff" * 10, "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (block(7, block(1, block(1, b"a\xffb"))), "byte 6 is not UTF-8"),
        (b"\x7d\x00\x00", "cut off"),
        (block(7, block(5, block(4, bytes(7)))), "numbers at byte 6"),
        (block(7, block(5, block(7, b"\x01\x80"))), "cut off"),
        (block(7, block(5, block(7, b"\xff" * 11 + b"\x01"))), "more than 64 bits"),
        (block(7, block(5, block(7, b"\xff" * 9 + b"\x02"))), "more than 64 bits"),
    ],
)
def test_damage_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read("ModelProto", content)


def test_large_payloads_are_views_and_small_ones_are_not() -> None:
    for size in (10, wire.LARGE - 1, wire.LARGE, 100_000):
        content = block(7, block(5, block(9, bytes(size)) + block(8, b"w")))
        data = np.frombuffer(content, np.uint8)
        payload = wire.read_message("ModelProto", content, data).graph.initializer[0].raw_data
        assert isinstance(payload, np.ndarray) == (size >= wire.LARGE) and len(payload) == size
        if size >= wire.LARGE:
            assert np.shares_memory(payload, data)


def refused_or_same(kind: str, content: bytes) -> None:
    """A message that protobuf refuses raises ModelError, any other one reads as protobuf reads it."""
    try:
        theirs = getattr(onnx, kind).FromString(content)
    except DecodeError:
        with pytest.raises(ModelError):
            read(kind, content)
    else:
        same(read(kind, content), theirs, kind)


def test_truncated_anywhere() -> None:
    """A message cut at any byte raises ModelError or reads as protobuf reads it."""
    rng = random.Random(0)
    for path in rng.sample(CASES, 12):
        content = path.read_bytes()[:3000]
        for n in range(len(content)):
            refused_or_same("ModelProto", content[:n])


def test_flipped_bits_never_raise_anything_else() -> None:
    rng = random.Random(1)
    read_anyway = 0
    for path in rng.sample(CASES, 40):
        content = path.read_bytes()[:20_000]
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(rng.choice((1, 1, 3, 20))):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            try:
                read("ModelProto", bytes(damaged))
                read_anyway += 1
            except ModelError:
                pass
    assert 0 < read_anyway < 2400


def test_many_nodes_are_read_fast() -> None:
    """Time per node does not grow with the number of nodes."""

    def seconds(n: int) -> float:
        nodes = [onnx.helper.make_node("Add", [f"a{k}", f"b{k}"], [f"c{k}"], name=f"n{k}", axis=k) for k in range(n)]
        content = block(7, onnx.GraphProto(node=nodes).SerializeToString())
        found = []
        for _ in range(5):
            start = time.perf_counter()
            read("ModelProto", content)
            found.append(time.perf_counter() - start)
        return min(found) / n

    assert seconds(20_000) < 8 * seconds(1000)
