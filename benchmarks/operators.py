"""Single operators against onnxruntime: what no network shows because something else takes its time.

python benchmarks/operators.py [REGEX ...] [--threads 1] [--blocks 5] [--slow 0.95]

Both runtimes in one process, in turns of about 12 ms, onnxruntime's threads without spinning; medians of blocks, the lowest and highest ratio of a pair,
and the largest difference of the outputs in units of 1e-4 + 1e-3 |onnxruntime's|. Then the slowest again, and the geometric mean.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import pytensor_rt as rt

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
rng = np.random.default_rng(0)
SIZES = {"small": (1, 4096), "medium": (64, 4096), "large": (256, 16384)}
DTYPES: dict[str, Any] = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "i64": np.int64, "i32": np.int32, "u8": np.uint8, "i8": np.int8, "bool": np.bool_,
}  # fmt: skip


class Case(NamedTuple):
    """One node: inputs that are fed, then inputs that are constants."""

    name: str
    op: str
    ins: tuple[Any, ...]
    consts: tuple[Any, ...] = ()
    attrs: dict[str, Any] = {}
    outs: int = 1
    opset: int = 20
    domain: str = ""


def f(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return (rng.random(shape) + 0.1).astype(np.float32)


def filled(dtype: Any, *shape: int, most: float = 99) -> Array:
    return np.asarray((rng.random(shape) * most).astype(dtype))


def indices(n: int, *shape: int) -> Array:
    return rng.integers(0, n, shape)


def elementwise() -> Iterator[Case]:
    for op in [
        "Abs",
        "Acos",
        "Asin",
        "Atan",
        "Ceil",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    ]:
        for size, shape in SIZES.items():
            yield Case(f"{op}.{size}", op, (positive(*shape) * np.float32(0.8),))
    shape = SIZES["medium"]
    for op in ["Abs", "Neg", "Exp", "Sqrt", "Relu", "Sigmoid", "Tanh"]:
        for t in ("f64", "f16"):
            yield Case(f"{op}.{t}", op, (filled(DTYPES[t], *shape, most=2),))
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Less", "Equal", "Max", "Min", "Mod"]:
        attrs = {"fmod": 1} if op == "Mod" else {}
        for size, s in SIZES.items():
            yield Case(f"{op}.{size}", op, (positive(*s), positive(*s)), attrs=attrs)
        yield Case(f"{op}.row", op, (positive(*shape), positive(shape[1])), attrs=attrs)
        yield Case(f"{op}.column", op, (positive(*shape), positive(shape[0], 1)), attrs=attrs)
    for op in ["Add", "Sub", "Mul", "Div", "Equal", "Less", "Max", "Min", "Mod"]:
        for t in ("i64", "i32", "f64", "f16"):
            if op != "Mod" or t[0] == "i":
                yield Case(f"{op}.{t}", op, tuple(filled(DTYPES[t], *shape, most=90) + DTYPES[t](1) for _ in range(2)))
    for op in ["And", "Or", "Xor"]:
        yield Case(op, op, (filled(np.bool_, *shape, most=2), filled(np.bool_, *shape, most=2)))
    for op in ["BitwiseAnd", "BitwiseXor", "Add"]:
        yield Case(f"{op}.u8", op, (filled(np.uint8, *shape), filled(np.uint8, *shape)))
    for t in ("f32", "i64"):
        yield Case(f"Where.{t}", "Where", (indices(2, *shape).astype(bool), filled(DTYPES[t], *shape), filled(DTYPES[t], *shape)))
    yield Case("Clip", "Clip", (f(*shape),), (np.float32(-1), np.float32(1)))
    for a in DTYPES:
        for b in DTYPES:
            if a != b:
                to = helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[b]))
                yield Case(f"Cast.{a}.{b}", "Cast", (filled(DTYPES[a], *shape),), attrs={"to": to})


def reductions() -> Iterator[Case]:
    layouts: dict[str, tuple[tuple[int, ...], list[int]]] = {
        "last": ((512, 512), [-1]), "first": ((512, 512), [0]), "all": ((512, 512), [0, 1]), "middle": ((16, 128, 128), [1]),
        "image": ((8, 64, 28, 28), [2, 3]), "short": ((65536, 8), [-1]), "channels": ((32, 16, 32, 32), [0, 2, 3]), "wide": ((4, 262144), [-1]),
    }  # fmt: skip
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"]:
        for name, (shape, axes) in layouts.items():
            yield Case(f"{op}.{name}", op, (positive(*shape),), (np.array(axes),), {"keepdims": 0})
    for op in ["ReduceSum", "ReduceMax"]:
        for t in ("i64", "i32", "f64"):
            for name in ("last", "first"):
                shape, axes = layouts[name]
                yield Case(f"{op}.{t}.{name}", op, (filled(DTYPES[t], *shape),), (np.array(axes),), {"keepdims": 0})
    lines = {
        "last": ((512, 512), -1),
        "first": ((512, 512), 0),
        "channels": ((1, 21, 256, 256), 1),
        "short": ((65536, 8), -1),
        "words": ((4, 50257), -1),
    }
    for name, (shape, axis) in lines.items():
        for op in ["Softmax", "LogSoftmax", "ArgMax"]:
            yield Case(f"{op}.{name}", op, (f(*shape),), attrs={"axis": axis})
        yield Case(f"CumSum.{name}", "CumSum", (f(*shape),), (np.array(axis),))
    for shape, k in (((64, 1000), 10), ((1, 50257), 50), ((16, 1000), 1000), ((4096, 100), 5)):
        yield Case(f"TopK.{k}of{shape[-1]}", "TopK", (f(*shape),), (np.array([k]),), outs=2)


def layouts() -> Iterator[Case]:
    transpositions: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "matrix": ((512, 512), (1, 0)), "odd": ((500, 333), (1, 0)), "large": ((2048, 2048), (1, 0)), "heads": ((8, 128, 12, 64), (0, 2, 1, 3)),
        "to_last": ((1, 64, 112, 112), (0, 2, 3, 1)), "to_first": ((1, 112, 112, 64), (0, 3, 1, 2)), "image": ((1, 3, 224, 224), (0, 2, 3, 1)),
        "tokens": ((16, 197, 768), (0, 2, 1)), "keys": ((8, 12, 128, 64), (0, 1, 3, 2)), "windows": ((8, 49, 3, 4, 32), (2, 0, 3, 1, 4)),
        "reverse": ((8, 16, 8, 16, 8), (4, 3, 2, 1, 0)),
    }  # fmt: skip
    for t in ("f32", "f16", "u8", "i64"):
        dtype = DTYPES[t]
        for name, (shape, perm) in transpositions.items():
            yield Case(f"Transpose.{name}.{t}", "Transpose", (filled(dtype, *shape),), attrs={"perm": perm})
    for t in ("f32", "u8", "i64"):
        dtype = DTYPES[t]
        for name, shapes, axis in (
            ("channels", [(1, 64, 56, 56)] * 2, 1), ("last", [(512, 64)] * 4, -1), ("odd", [(4096, 3), (4096, 5), (4096, 1)], -1),
            ("columns", [(4096, 1)] * 4, -1), ("cache", [(1, 12, 511, 64), (1, 12, 1, 64)], 2),
        ):  # fmt: skip
            yield Case(f"Concat.{name}.{t}", "Concat", tuple(filled(dtype, *s) for s in shapes), attrs={"axis": axis})
        for name, shape, spec in (
            ("step", (1, 64, 112, 112), ([0, 0], [112, 112], [2, 3], [2, 2])), ("reverse", (64, 4096), ([-1], [-(10**9)], [1], [-1])),
            ("part", (512, 768), ([100], [356], [1], [1])), ("column", (65536, 8), ([3], [4], [1], [1])),
        ):  # fmt: skip
            yield Case(f"Slice.{name}.{t}", "Slice", (filled(dtype, *shape),), tuple(np.array(v) for v in spec))
        for mode in ("constant", "reflect", "edge"):
            pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
            yield Case(f"Pad.{mode}.{t}", "Pad", (filled(dtype, 1, 64, 56, 56),), (pads,), {"mode": mode})
        for name, shape, repeats in (("last", (512, 64), [1, 4]), ("both", (32, 64), [8, 8]), ("cube", (16, 32, 32), [2, 2, 2])):
            yield Case(f"Tile.{name}.{t}", "Tile", (filled(dtype, *shape),), (np.array(repeats),))
        yield Case(f"Expand.{t}", "Expand", (filled(dtype, 1, 8, 1, 128, 64),), (np.array([1, 8, 4, 128, 64]),))
        yield Case(f"Gather.rows.{t}", "Gather", (filled(dtype, 30522, 768), indices(30522, 1, 128)))
        yield Case(f"Gather.columns.{t}", "Gather", (filled(dtype, 512, 768), indices(768, 100)), attrs={"axis": 1})
        yield Case(f"GatherElements.{t}", "GatherElements", (filled(dtype, 512, 512), indices(512, 512, 100)), attrs={"axis": 1})
        yield Case(f"ScatterND.{t}", "ScatterND", (filled(dtype, 1000, 256), indices(1000, 500, 1), filled(dtype, 500, 256)))
        yield Case(f"DepthToSpace.{t}", "DepthToSpace", (filled(dtype, 1, 256, 56, 56),), attrs={"blocksize": 2})
        yield Case(f"SpaceToDepth.{t}", "SpaceToDepth", (filled(dtype, 1, 3, 640, 640),), attrs={"blocksize": 2})
        yield Case(f"Trilu.{t}", "Trilu", (filled(dtype, 512, 512),))
        lengths, attrs = indices(99, 32) + 1, {"batch_axis": 1, "time_axis": 0}
        yield Case(f"ReverseSequence.{t}", "ReverseSequence", (filled(dtype, 100, 32, 64), lengths), attrs=attrs)
        yield Case(f"NonZero.{t}", "NonZero", (filled(dtype, 512, 512, most=2),))
        yield Case(f"Compress.{t}", "Compress", (filled(dtype, 4096, 64), indices(2, 4096).astype(bool)), attrs={"axis": 0})
    yield Case("OneHot", "OneHot", (indices(100, 4096),), (np.array(100), np.array([0, 1], np.float32)))


def products() -> Iterator[Case]:
    for m, k, n in (
        (1, 768, 768), (4, 512, 512), (16, 1024, 1024), (128, 768, 3072), (1000, 16, 16), (4096, 8, 4), (7, 2000, 3), (1, 64, 50000), (300, 300, 1),
    ):  # fmt: skip
        name = f"{m}x{k}x{n}"
        yield Case(f"MatMul.constant.{name}", "MatMul", (f(m, k),), (f(k, n),))
        yield Case(f"MatMul.{name}", "MatMul", (f(m, k), f(k, n)))
        yield Case(f"Gemm.{name}", "Gemm", (f(m, k), f(n, k)), (f(n),), {"transB": 1})
        yield Case(f"MatMul.f64.{name}", "MatMul", (filled(np.float64, m, k), filled(np.float64, k, n)))
    for b, m, k, n in ((12, 128, 64, 128), (96, 16, 16, 16), (1000, 4, 4, 4), (8, 1, 64, 512)):
        yield Case(f"MatMul.{b}x{m}x{k}x{n}", "MatMul", (f(b, m, k), f(b, k, n)))
    for t in ("i32", "i64"):
        yield Case(f"MatMul.{t}", "MatMul", (filled(DTYPES[t], 128, 128), filled(DTYPES[t], 128, 128)))
    yield Case("MatMulInteger", "MatMulInteger", (filled(np.uint8, 128, 768), filled(np.int8, 768, 768)))
    for rows in (1, 4, 16, 128):
        for level in (0, 4):
            side, block = 2048, 32
            weights = (filled(np.uint8, side, side // block, block // 2, most=255), positive(side * side // block))
            attrs = {"K": side, "N": side, "bits": 4, "block_size": block, "accuracy_level": level}
            yield Case(f"MatMulNBits.level{level}.{rows}", "MatMulNBits", (f(rows, side),), weights, attrs, domain=MICROSOFT)
    yield Case("Attention", "Attention", tuple(f(1, 12, 128, 64) for _ in range(3)), opset=23)


def windows() -> Iterator[Case]:
    for name, x, w, attrs in (
        ("1x1", (1, 64, 56, 56), (256, 64, 1, 1), {}), ("3x3", (1, 64, 56, 56), (64, 64, 3, 3), {"pads": [1] * 4}),
        ("7x7", (1, 3, 224, 224), (64, 3, 7, 7), {"pads": [3] * 4, "strides": [2, 2]}),
        ("depthwise", (1, 96, 112, 112), (96, 1, 3, 3), {"pads": [1] * 4, "group": 96}),
        ("grouped", (1, 128, 56, 56), (128, 4, 3, 3), {"pads": [1] * 4, "group": 32}),
        ("dilated", (1, 64, 56, 56), (64, 64, 3, 3), {"pads": [2] * 4, "dilations": [2, 2]}),
        ("1d", (1, 64, 1000), (128, 64, 3), {"pads": [1, 1]}), ("3d", (1, 16, 8, 28, 28), (32, 16, 3, 3, 3), {"pads": [1] * 6}),
        ("patches", (1, 3, 224, 224), (768, 3, 16, 16), {"strides": [16, 16]}),
    ):  # fmt: skip
        yield Case(f"Conv.{name}", "Conv", (f(*x),), (f(*w), f(w[0])), dict(attrs))
        yield Case(
            f"Conv.f16.{name}", "Conv", (f(*x).astype(np.float16),), (f(*w).astype(np.float16), f(w[0]).astype(np.float16)), dict(attrs)
        )
    yield Case("ConvTranspose", "ConvTranspose", (f(1, 64, 32, 32),), (f(64, 64, 4, 4),), {"strides": [2, 2], "pads": [1] * 4})
    yield Case(
        "ConvTranspose.depthwise",
        "ConvTranspose",
        (f(1, 64, 32, 32),),
        (f(64, 1, 4, 4),),
        {"strides": [2, 2], "pads": [1] * 4, "group": 64},
    )
    for op in ("MaxPool", "AveragePool"):
        for name, x, size, stride in (("3", (1, 64, 112, 112), 3, 2), ("2", (1, 64, 112, 112), 2, 2), ("7", (8, 512, 7, 7), 7, 1)):
            yield Case(f"{op}.{name}", op, (f(*x),), attrs={"kernel_shape": [size] * 2, "strides": [stride] * 2})
    for mode in ("nearest", "linear", "cubic"):
        scales = np.array([1, 1, 2, 2], np.float32)
        yield Case(f"Resize.{mode}", "Resize", (f(1, 64, 56, 56),), (np.zeros(0, np.float32), scales), {"mode": mode})


def normalizations() -> Iterator[Case]:
    for name, shape in {"bert": (1, 128, 768), "swin": (3136, 96), "wide": (16, 16384), "short": (65536, 16)}.items():
        n = shape[-1]
        yield Case(f"LayerNormalization.{name}", "LayerNormalization", (f(*shape),), (f(n), f(n)))
        yield Case(f"LpNormalization.{name}", "LpNormalization", (f(*shape),))
    for name, image in {"56": (1, 64, 56, 56), "7": (8, 512, 7, 7), "1d": (4, 128, 1000)}.items():
        c = image[1]
        yield Case(f"BatchNormalization.{name}", "BatchNormalization", (f(*image),), (positive(c), f(c), f(c), positive(c)))
        yield Case(f"InstanceNormalization.{name}", "InstanceNormalization", (f(*image),), (f(c), f(c)))


def quantisation() -> Iterator[Case]:
    scale, zero = np.float32(0.02), np.uint8(120)
    for size, shape in SIZES.items():
        yield Case(f"QuantizeLinear.{size}", "QuantizeLinear", (f(*shape),), (scale, zero))
        yield Case(f"DequantizeLinear.{size}", "DequantizeLinear", (filled(np.uint8, *shape),), (scale, zero))
        yield Case(f"DynamicQuantizeLinear.{size}", "DynamicQuantizeLinear", (f(*shape),), outs=3)
    yield Case("QuantizeLinear.channels", "QuantizeLinear", (f(1, 64, 56, 56),), (positive(64), np.zeros(64, np.int8)), {"axis": 1})


def recurrent() -> Iterator[Case]:
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for name, steps, batch, width, hidden in (("64", 50, 1, 32, 64), ("256", 100, 1, 128, 256), ("batch", 20, 64, 64, 64)):
            weights = (f(1, gates * hidden, width), f(1, gates * hidden, hidden), f(1, 2 * gates * hidden))
            small = tuple(w * np.float32(0.1) for w in weights)
            yield Case(f"{op}.{name}", op, (f(steps, batch, width),), small, {"hidden_size": hidden}, outs=2)


FAMILIES = (elementwise, reductions, layouts, products, windows, normalizations, quantisation, recurrent)


def model(case: Case) -> bytes:
    fed = [f"x{k}" for k in range(len(case.ins))]
    constant = ["" if case.op == "Resize" and np.size(c) == 0 else f"c{k}" for k, c in enumerate(case.consts)]
    node = helper.make_node(case.op, [*fed, *constant], [f"y{k}" for k in range(case.outs)], domain=case.domain, **case.attrs)
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in zip(fed, case.ins)]
    weights = [numpy_helper.from_array(np.asarray(c), n) for n, c in zip(constant, case.consts) if n]
    outputs = [helper.make_empty_tensor_value_info(n) for n in node.output]
    graph = helper.make_graph([node], "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", case.opset), *([helper.make_opsetid(case.domain, 1)] if case.domain else [])]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes((proto if case.domain else onnx.shape_inference.infer_shapes(proto)).SerializeToString())


def error(ours: list[Any], theirs: list[Any]) -> float:
    worst = 0.0
    for a, b in zip(ours, theirs):
        if a.shape != b.shape:
            return np.inf
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        worst = max(worst, float(np.max(np.abs(x - y) / (1e-4 + 1e-3 * np.abs(y)), initial=0)))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=[""])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--slow", type=float, default=0.95, help="list again what is below this ratio")
    args = parser.parse_args()
    ratios: list[tuple[float, str]] = []
    for case in (c for family in FAMILIES for c in family() if any(re.search(p, c.name) for p in args.patterns)):
        file, feed = model(case), {f"x{k}": x for k, x in enumerate(case.ins)}
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = args.threads, 1, 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        ours = rt.InferenceSession(file, threads=args.threads)
        got = ours.run(None, feed)
        try:
            peer = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            want = peer.run(None, feed)
        except Exception as e:
            print(f"{case.name:34s} onnxruntime: {str(e).splitlines()[0][:90]}")
            continue
        for _ in range(3):
            ours.run(None, feed), peer.run(None, feed)
        start = time.perf_counter()
        peer.run(None, feed)
        runs = max(1, min(300, int(0.012 / (time.perf_counter() - start))))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(args.blocks):
            for session, out in zip((ours, peer), times):
                session.run(None, feed)
                start = time.perf_counter()
                for _ in range(runs):
                    session.run(None, feed)
                out.append((time.perf_counter() - start) / runs * 1e6)
        pairs = np.array(times[1]) / np.array(times[0])
        ratios.append((float(np.median(pairs)), case.name))
        print(
            f"{case.name:34s} {np.median(times[0]):10.1f} us, onnxruntime {np.median(times[1]):10.1f}, ratio {ratios[-1][0]:6.2f} "
            f"({pairs.min():.2f} - {pairs.max():.2f}), difference {error(got, want):.2g}",
            flush=True,
        )
    if ratios:
        print(f"\n{len(ratios)} operators, geometric mean {np.exp(np.mean([np.log(r) for r, _ in ratios])):.2f}; below {args.slow}:")
        print(*(f"  {r:5.2f} {name}" for r, name in sorted(ratios) if r < args.slow), sep="\n")


if __name__ == "__main__":
    main()
