"""Chains of launches cut into images, rows and strands: the same bits as whole launches, in less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import pytensor_rt as rt
from pytensor_rt.lowering.tensor import ARENA, Buffer, Launch, Tensor, row_major
from pytensor_rt.plan import bands, plan
from pytensor_rt.plan.verify import VerificationError, verify


class _Net:
    """Grows a network of images [N, C, H, W]."""

    def __init__(self, seed: int, batch: int | str, channels: int, rows: int, columns: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.batch, self.input = batch, (batch, channels, rows, columns)
        self.shapes: dict[str, tuple[int, int, int]] = {"x": (channels, rows, columns)}

    def const(self, a: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(a, np.float32), f"c{len(self.constants)}"))
        return f"c{len(self.constants) - 1}"

    def add(self, op: str, ins: list[str], shape: tuple[int, int, int], **attrs: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, ins, [name], **attrs))
        self.shapes[name] = shape
        return name

    def conv(self, a: str, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1, group: int = 1, pads: Any = None) -> str:
        c, h, w = self.shapes[a]
        reach = (kernel - 1) * dilation + 1
        top, left, bottom, right = pads or ((reach - 1) // 2,) * 4
        if h + top + bottom < reach or w + left + right < reach:
            return a
        shape = (outputs, (h + top + bottom - reach) // stride + 1, (w + left + right - reach) // stride + 1)
        weights = self.rng.standard_normal((outputs, c // group, kernel, kernel)) / np.sqrt(c // group * kernel)
        return self.add(
            "Conv", [a, self.const(weights), self.const(self.rng.standard_normal(outputs))], shape,
            kernel_shape=[kernel] * 2, strides=[stride] * 2, dilations=[dilation] * 2, group=group, pads=[top, left, bottom, right],
        )  # fmt: skip

    def grow(self, a: str) -> str:
        r = self.rng
        c, h, w = self.shapes[a]
        match r.choice(
            ["expand", "depthwise", "depthwise", "project", "strided", "activation", "residual", "squeeze", "concat", "pool", "grouped"]
        ):
            case "expand":
                return self.conv(a, int(r.integers(17, 70)), stride=int(r.choice([1, 1, 1, 2])))
            case "depthwise":
                k, d = int(r.choice([2, 3, 5])), int(r.choice([1, 1, 2]))
                pads = [int(p) for p in r.integers(0, k, 4)] if r.random() < 0.5 else None
                return self.conv(a, c, k, int(r.choice([1, 1, 2, 3])), d, c, pads)
            case "project":
                return self.conv(a, int(r.integers(1, 20)))
            case "strided":
                return self.conv(a, int(r.integers(17, 40)), int(r.choice([2, 3])), 2)
            case "grouped":
                return self.conv(a, c, 3, group=2) if c % 2 == 0 else a
            case "activation":
                return self.add(str(r.choice(["Relu", "HardSwish", "Sigmoid"])), [a], (c, h, w))
            case "residual":
                same = [b for b, s in self.shapes.items() if s == (c, h, w) and b != a]
                return self.add("Add", [a, same[r.integers(len(same))]], (c, h, w)) if same else a
            case "squeeze":
                s = self.add("GlobalAveragePool", [a], (c, 1, 1))
                s = self.add("Sigmoid", [self.conv(self.conv(s, 4), c)], (c, 1, 1))
                return self.add("Mul", [a, s], (c, h, w))
            case "concat":
                same = [b for b, s in self.shapes.items() if s[1:] == (h, w)]
                b = same[r.integers(len(same))]
                return self.add("Concat", [a, b], (c + self.shapes[b][0], h, w), axis=1)
            case _:
                op = str(r.choice(["MaxPool", "AveragePool"]))
                return self.add(op, [a], (c, (h - 1) // 2, (w - 1) // 2), kernel_shape=[3, 3], strides=[2, 2]) if min(h, w) > 4 else a

    def model(self, last: str) -> ModelProto:
        outputs = [last, *[str(v) for v in self.rng.choice(list(self.shapes), 1) if v not in ("x", last)]]
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.input)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: ModelProto, x: Any, threads: int, workers: int | None = None) -> tuple[list[bytes], Any]:
    session = rt.InferenceSession(model.SerializeToString(), threads=threads, device="cpu")
    session._engine.options.workers = threads if workers is None else workers
    first = session.run(None, {"x": x})
    again = session.run(None, {"x": x})
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again))
    return [a.tobytes() for a in first], session.bind(x=x.shape).plan


@pytest.fixture(autouse=True)
def verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "VERIFY", True)


def small(monkeypatch: pytest.MonkeyPatch, large: int, band: int) -> None:
    monkeypatch.setattr(bands, "LARGE", {0: large, 2: large})
    monkeypatch.setattr(bands, "BAND", band)
    monkeypatch.setattr(bands, "STRAND_ROWS", 0)
    monkeypatch.setattr(bands, "INTENSITY", {0: 1 << 30, 2: 1 << 30})


def inverted_residuals(batch: int | str, size: int) -> ModelProto:
    net = _Net(0, batch, 16, size, size)
    a = net.add("Relu", [net.conv("x", 96)], net.shapes["x"])
    net.shapes[a] = (96, size, size)
    a = net.conv(net.add("Relu", [net.conv(a, 96, 3, 2, group=96)], (96, size // 2, size // 2)), 24)
    b = net.add("Relu", [net.conv(a, 144)], (144, size // 2, size // 2))
    b = net.conv(net.add("Relu", [net.conv(b, 144, 3, group=144)], (144, size // 2, size // 2)), 24)
    return net.model(net.add("Add", [a, b], (24, size // 2, size // 2)))


def test_random_networks_have_the_same_bits_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"chains of images": 0, "chains of rows": 0, "strands": 0, "copies": 0}
    for seed in range(60):
        r = np.random.default_rng(1000 + seed)
        batch = int(r.choice([1, 1, 2, 3, 6]))
        net = _Net(seed, batch, int(r.choice([3, 16, 24])), *(int(n) for n in r.integers(6, 40, 2)))
        a = "x"
        for _ in range(int(r.integers(3, 14))):
            a = net.grow(a)
        if a == "x":
            continue
        model = net.model(a)
        x = r.standard_normal(net.input).astype(np.float32)
        want, whole = run(model, x, 1, workers=0)
        small(monkeypatch, int(r.choice([256, 2048, 8192])), int(r.choice([512, 4096, 16384])))
        for threads in (1, 2, 3):
            got, cut = run(model, x, threads)
            assert got == want, (seed, threads)
            for name in ("chains of images", "chains of rows"):
                seen[name] += cut.stats.get(name, 0)
            seen["strands"] += len(cut.strands)
            seen["copies"] += sum(launch.is_copy for launch in cut.launches) > sum(launch.is_copy for launch in whole.launches)
    assert min(seen.values()) > 20, seen


@pytest.mark.parametrize("batch,size,less", [(1, 160, 2), (8, 64, 4)])
def test_what_only_a_chain_sees_has_memory_for_a_part(batch: int, size: int, less: int) -> None:
    model = inverted_residuals(batch, size)
    x = np.random.default_rng(0).standard_normal((batch, 16, size, size)).astype(np.float32)
    want, whole = run(model, x, 1, workers=0)
    for threads in (1, 2):
        got, cut = run(model, x, threads)
        assert got == want
        assert cut.stats.get("chains of rows" if batch == 1 else "chains of images")
        assert bool(cut.strands) == (threads > 1)
        assert cut.arena_bytes * less < whole.arena_bytes * threads


def test_large_shapes_are_not_planned_from_templates() -> None:
    """Or their results would have come from other launches than those of a session that begins with them."""
    model = inverted_residuals("n", 32)
    shapes = {n: np.random.default_rng(n).standard_normal((n, 16, 32, 32)).astype(np.float32) for n in (2, 3, 4, 5, 8)}
    session = rt.InferenceSession(model.SerializeToString(), threads=1, device="cpu")
    for n, x in shapes.items():
        assert [a.tobytes() for a in session.run(None, {"x": x})] == run(model, x, 1)[0]
        cut = "chains of images" in session.bind(x=x.shape).plan.stats
        assert cut == (n * 96 * 32 * 32 * 4 >= bands.LARGE[0])


def test_chains_that_compute_much_are_left_whole() -> None:
    net = _Net(0, 1, 256, 96, 96)
    a = net.conv(net.conv("x", 512), 256)
    _, whole = run(net.model(a), np.zeros((1, 256, 96, 96), np.float32), 1)
    assert len(whole.launches) == 2


def test_uneven_batches_are_left_to_all_workers() -> None:
    _, uneven = run(inverted_residuals(3, 64), np.zeros((3, 16, 64, 64), np.float32), 2)
    assert "chains of images" not in uneven.stats
    _, even = run(inverted_residuals(3, 64), np.zeros((3, 16, 64, 64), np.float32), 3)
    assert "chains of images" in even.stats


def test_strands_have_rows_enough() -> None:
    """Or workers would mostly compute rows that their neighbours compute as well."""
    model, x = inverted_residuals(1, 160), np.zeros((1, 16, 160, 160), np.float32)
    for workers in (1, 2, 3, 16):
        _, plan = run(model, x, 1, workers)
        assert {len(s.ends) for s in plan.strands} <= {workers}
        assert bool(plan.strands) == (1 < workers < 16)


@pytest.mark.parametrize("channels", [1, 5, 16, 24])
def test_sums_over_images_have_the_bits_of_a_batch(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = _Net(0, 6, 24, 5, 5)
    a = net.add("Sigmoid", [net.conv("x", channels)], (channels, 5, 5))
    model = net.model(net.add("Mul", [a, net.add("GlobalAveragePool", [a], (channels, 1, 1))], (channels, 5, 5)))
    x = np.random.default_rng(channels).standard_normal((6, 24, 5, 5)).astype(np.float32)
    small(monkeypatch, 256, 256)
    bits = [run(model, x, 1, workers)[0] for workers in (0, 1, 2, 4)]  # (four are not used: six images do not divide evenly)
    assert all(b == bits[0] for b in bits)


def test_the_verifier_sees_strands_that_share_memory() -> None:
    def tensor(b: Buffer, offset: int = 0) -> Tensor:
        return Tensor(b, offset, (16,), row_major((16,)), np.dtype(np.float32))

    b = [Buffer(k, ARENA, 32, np.dtype(np.float32)) for k in range(4)]
    copy = (("load", (0,), np.dtype(np.float32)),)

    def made(*pairs: tuple[Tensor, Tensor]) -> plan.Plan:
        launches = [Launch("map", [], [tensor(b[0])], None, (("const", (1.0,), np.dtype(np.float32)),))]
        launches += [Launch("map", [x], [y], None, copy) for x, y in pairs]
        return plan.Plan(
            launches=launches, outputs={}, offsets={k: 128 * i for i, k in enumerate(b)}, arena_bytes=512, lower_bound=0, naive_bytes=0,
            stats={}, into={}, items=[], roots=[], strands=[bands.Strands(1, (2, 3))],
        )  # fmt: skip

    verify(made((tensor(b[0]), tensor(b[1])), (tensor(b[0]), tensor(b[1], 16))))
    with pytest.raises(VerificationError, match="another one writes"):
        verify(made((tensor(b[0]), tensor(b[1])), (tensor(b[0]), tensor(b[1]))))
    with pytest.raises(VerificationError, match="another one writes"):
        verify(made((tensor(b[0]), tensor(b[1])), (tensor(b[1]), tensor(b[2]))))
