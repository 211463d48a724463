"""Row-wise kernels: how the axes of a launch become rows (sets of elements that are reduced together), and rows become threads.

The axes are regrouped into kept and reduced ones, each ordered as the input lies in memory and merged where every operand allows. `columns` says
whether neighbours in memory belong to different rows. csrc/cuda/sweep.cuh is the other half of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ...axes import Strides, merge
from ..build import Builder, is_wide, operand, used_operands
from ..source import register_type, type_of

THREADS = 256
ENOUGH = 1 << 16  # threads that keep a large device busy; fixed, so that results do not depend on the device
KEPT = 3  # kept axes, at least: a division more per thread, at its start, for a fraction of the variants
_FAR = 1 << 62


class Layout:
    """The merged axes of a row-wise launch over `axes`, and its operands' strides over them: kept axes, then reduced ones, in groups that are never empty.

    sizes: of all axes. kept: the number of kept ones. xs: (name, tensor, strides) of operand 0 or the operands of the prologue. y, epilogue,
    more: strides of output 0 (None where it does not follow the axes), of the epilogue's operands and of `more`.
    width: neighbours along `axis` that are loaded at once. units: rows, or packs of `width` rows; steps: loads per row.
    """

    def __init__(self, launch: Launch, axes: Sequence[int], more: Sequence[Tensor] = (), y: bool = True) -> None:
        x = launch.ins[0]
        assert x is not None
        out = launch.outs[0] if y else None
        pro = launch.prologue
        used = used_operands(pro)
        sources = [(f"prologue{k}", launch.pro_ins[k]) for k in used] if pro else [("x", x)]
        iotas = sorted({args[0] for p in (pro, launch.epilogue) for op, args, _ in p if op == "iota"})
        units = [tuple(int(i == k) for i in range(x.ndim)) for k in iotas]
        kept = [i for i in range(x.ndim) if i not in axes]
        tensors = [t for _, t in sources] + ([out] if out is not None else []) + [*launch.epi_ins, *more]
        lead = max([t for _, t in sources], key=_elements, default=x).strides
        behind = out.strides if out is not None else lead

        def by_memory(i: int) -> tuple[int, int]:
            return -_distance(lead[i]), -_distance(behind[i])

        groups = (sorted(kept, key=by_memory), sorted(axes, key=by_memory))
        merged = merge(x.shape, [lead, *[t.strides for t in tensors], *units], groups)
        n_kept, n_reduced = (count for _, count in merged.groups)
        strides = [_padded(s, n_kept, n_reduced, 0) for s in merged.strides]
        self.launch = launch
        self.sizes = _padded(merged.sizes, n_kept, n_reduced, 1)
        self.kept = max(KEPT, n_kept)
        self.rank = len(self.sizes)
        self.columns = _distance(strides[0][self.kept - 1]) < _distance(strides[0][-1]) or (n_reduced == 0 and n_kept > 0)
        self.axis = self.kept - 1 if self.columns else self.rank - 1
        self.wide = is_wide(*tensors, *launch.outs, sizes=[int(x.size)])
        n = len(sources)
        self.xs = [(name, t, s) for (name, t), s in zip(sources, strides[1:])]
        self.y = strides[1 + n] if out is not None else None
        rest = strides[1 + n + (out is not None) :]
        self.epilogue, rest = rest[: len(launch.epi_ins)], rest[len(launch.epi_ins) :]
        self.more, rest = rest[: len(more)], rest[len(more) :]
        coefficients = dict(zip(iotas, rest))
        self.iota = [coefficients.get(k, (0,) * self.rank) for k in range(x.ndim)]
        self.rows = prod(self.sizes[: self.kept])
        self.count = prod(self.sizes[self.kept :])
        self.width = 1
        self.set_width([(t, s) for _, t, s in self.xs])

    def set_width(self, operands: Sequence[tuple[Tensor, Strides]]) -> None:
        """Load as many neighbours at once as make 16 bytes of the widest of these operands, if all that change along the axis allow it.

        At most 8: a thread keeps a state for each of them, and 16 states of what bytes are summed in would not leave registers for the loads.
        """
        moved = [(t, s) for t, s in operands if s[self.axis] != 0]
        self.width = min(8, 16 // max([t.dtype.itemsize for t, _ in moved], default=16))
        least = self.width // 2  # 8 bytes
        while self.width > 1 and not all(self.packed(t, s) for t, s in moved):
            self.width = self.width // 2 if self.width > least else 1
        self.units = self.rows // (self.width if self.columns else 1)
        self.steps = self.count // (1 if self.columns else self.width)

    def packed(self, t: Tensor, strides: Strides) -> bool:
        """Can this operand be moved in packs of `width` elements?"""
        w = self.width
        others = [s for i, s in enumerate(strides) if i != self.axis]
        return (
            strides[self.axis] == 1
            and self.sizes[self.axis] % w == 0
            and int(t.offset) % w == 0
            and all(s % w == 0 for s in others)
            and w * t.dtype.itemsize <= 16
        )

    # ------------------------------------------------------------------------------------------------------------------------------ code
    def view(self, b: Builder, name: str, t: Tensor, strides: Strides, packed: bool = False) -> None:
        """As Builder.view, but the text does not depend on which strides are 0 or 1, except for that of packs."""
        b.pointer(f"{name}_data", type_of(t.dtype), operand(t))
        b.array(f"{name}_stride", "idx", strides)
        terms = [f"c[{i}]" if packed and i == self.axis else f"c[{i}] * a.{name}_stride[{i}]" for i in range(self.rank)]
        b.functions.append(f"__forceinline__ Idx at_{name}(const Args& a, const Idx (&c)[{self.rank}]) {{ return {' + '.join(terms)}; }}")

    def declare(self, b: Builder) -> None:
        """The constants and sizes that sweep.cuh reads."""
        for name, value in (("RANK", self.rank), ("KEPT", self.kept), ("WIDTH", self.width), ("COLUMNS", self.columns and self.width > 1)):
            b.define(name, value)
        sizes = list(self.sizes)
        sizes[self.axis] //= self.width
        b.sizes("size", [max(1, n) for n in sizes])
        b.scalar("columns", "bool", self.columns)
        b.scalar("units", "idx", self.units)
        b.scalar("steps", "idx", self.steps)

    def source(self, b: Builder) -> None:
        """`load_xs(a, c, v)`: the WIDTH elements of operand 0, of type X, from coordinates c on along the pack axis."""
        pro = self.launch.prologue
        if not pro:
            name, t, s = self.xs[0]
            b.type("X", t.dtype)
            self.loads(b, "load_xs", "Value<X>", [(name, t, s)], "{x}")
            return
        by_number: list[Strides] = [()] * len(self.launch.pro_ins)
        for k, (_, _, s) in zip(used_operands(pro), self.xs):
            by_number[k] = s
        b.program("prologue", pro, self.launch.pro_ins, by_number, self.rank, iota=self.iota, passed=True)
        b.type("X", pro[-1][2])
        call = "prologue(a, c" + "".join(f", {{{name}}}" for name, _, _ in self.xs) + ")"
        self.loads(b, "load_xs", "Value<X>", self.xs, call)

    def loads(self, b: Builder, function: str, ctype: str, operands: Sequence[tuple[str, Tensor, Strides]], text: str) -> None:
        """`function(a, c, v)`: v[i] = text with {name} replaced by the operands' elements at c + i along the pack axis."""
        before, values = self._fetch(b, operands)
        inside = f"v[i] = {text.format(**values)};"
        b.functions.append(
            f"__forceinline__ void {function}(const Args& a, Idx (&c)[RANK], {ctype} (&v)[WIDTH]) {self._loop(before, [inside])}"
        )

    def sink(self, b: Builder) -> None:
        """`store_ys(a, c, v)`: WIDTH results of type Acc through the epilogue into output 0, from coordinates c on along the pack axis."""
        launch, y = self.launch, self.launch.outs[0]
        assert y is not None and self.y is not None
        own = launch.acc_dtype or y.dtype
        b.type("Y", y.dtype)
        b.type("Acc", own)
        packed = self.width > 1 and self.packed(y, self.y)
        self.view(b, "y", y, self.y, packed)
        before: list[str] = []
        value = "op::cast<Y, Acc>(v[i])"
        if launch.epilogue:
            used = used_operands(launch.epilogue)
            before, values = self._fetch(b, [(f"epilogue{k}", launch.epi_ins[k], self.epilogue[k]) for k in used])
            b.program("epilogue", launch.epilogue, launch.epi_ins, self.epilogue, self.rank, own, iota=self.iota, passed=True)
            loaded = "".join(f", {values[f'epilogue{k}']}" for k in used)
            value = f"epilogue(a, c{loaded}, rounded<Acc>(v[i]))"
        if packed:
            inside = [f"out.at[i] = stored<Y>({value});"]
            before.insert(0, "Y* const to = a.y_data + at_y(a, c);")
            before.append("Pack<Y, WIDTH> out;")
        else:
            inside = [f"a.y_data[at_y(a, c)] = stored<Y>({value});"]
        after = "store_pack(to, out);" if packed else ""
        b.functions.append(
            f"__forceinline__ void store_ys(const Args& a, Idx (&c)[RANK], const Value<Acc> (&v)[WIDTH]) {self._loop(before, inside, after)}"
        )

    def result(self, b: Builder) -> None:
        """`store_y(a, c, v)`: one result of type Acc, at the kept coordinates c, through the epilogue into output 0."""
        launch, y = self.launch, self.launch.outs[0]
        assert y is not None and self.y is not None
        own = launch.acc_dtype or y.dtype
        b.type("Y", y.dtype)
        b.type("Acc", own)
        self.view(b, "y", y, self.y)
        value = "op::cast<Y, Acc>(v)"
        if launch.epilogue:
            used = used_operands(launch.epilogue)
            for k in used:
                self.view(b, f"epilogue{k}", launch.epi_ins[k], self.epilogue[k])
            b.program("epilogue", launch.epilogue, launch.epi_ins, self.epilogue, self.rank, own, iota=self.iota, passed=True)
            loaded = "".join(f", value_of(a.epilogue{k}_data[at_epilogue{k}(a, c)])" for k in used)
            value = f"epilogue(a, c{loaded}, rounded<Acc>(v))"
        b.functions.append(
            f"__forceinline__ void store_y(const Args& a, const Idx (&c)[{self.rank}], const Value<Acc> v) "
            f"{{ a.y_data[at_y(a, c)] = stored<Y>({value}); }}"
        )

    def _fetch(self, b: Builder, operands: Sequence[tuple[str, Tensor, Strides]]) -> tuple[list[str], dict[str, str]]:
        """Statements before the loop over the elements of a pack, and the expression of each operand's element in the loop."""
        before, values = [], {}
        for name, t, s in operands:
            ctype = type_of(t.dtype)
            if self.width > 1 and self.packed(t, s):
                self.view(b, name, t, s, True)
                before.append(f"const Pack<{ctype}, WIDTH> p_{name} = load_pack<{ctype}, WIDTH>(a.{name}_data + at_{name}(a, c));")
                values[name] = f"value_of(p_{name}.at[i])"
                continue
            self.view(b, name, t, s)
            load = f"value_of(a.{name}_data[at_{name}(a, c)])"
            if self.width > 1 and s[self.axis] == 0:
                before.append(f"const {register_type(t.dtype)} s_{name} = {load};")
                values[name] = f"s_{name}"
            else:
                values[name] = load
        return before, values

    def _loop(self, before: list[str], inside: list[str], after: str = "") -> str:
        if self.width == 1:
            lines = [*before, "constexpr int i = 0;", *inside, after]
        else:
            lines = [
                *before, f"const Idx first = c[{self.axis}];", "#pragma unroll", "for (int i = 0; i < WIDTH; i++) {",
                f"  c[{self.axis}] = first + i;", *[f"  {line}" for line in inside], "}", f"c[{self.axis}] = first;", after,
            ]  # fmt: skip
        return "{\n  " + "\n  ".join(line for line in lines if line) + "\n}"

    # ----------------------------------------------------------------------------------------------------------------------------- threads
    def lanes(self) -> int:
        """log2 of the threads that share a row in a sweep: as few as keep the device busy, each with several loads."""
        steps = max(1, self.steps)
        if self.columns:
            most = THREADS // min(32, ceil_pow2(self.units))
            lanes = min(most, floor_pow2(max(1, steps // 16)))
        else:
            most = THREADS
            lanes = min(32, floor_pow2(max(1, steps // 2)))
        while lanes < most and steps >= 4 * lanes and self.units * lanes < ENOUGH:
            lanes *= 2
        return lanes.bit_length() - 1

    def blocks(self, log2: int) -> int:
        """Blocks of THREADS threads for all rows."""
        return -(-self.units // (THREADS >> log2))

    def splits(self, log2: int) -> tuple[int, int]:
        """(stretches per row, steps per stretch): more than one where the rows alone make few blocks with long loops."""
        blocks, lanes = self.blocks(log2), 1 << log2
        limit = 2 * ENOUGH // THREADS
        if blocks * 2 > limit or self.steps < lanes * 64:
            return 1, max(1, self.steps)
        share = -(-self.steps // min(limit // blocks, self.steps // (16 * lanes)))
        share = -(-share // lanes) * lanes
        return -(-self.steps // share), share


def floor_pow2(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)


def ceil_pow2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def refuse_complex(launch: Launch) -> None:
    """Raises UnsupportedError for complex operands, which have no row-wise kernels on any device."""
    for t in (*launch.ins, *launch.outs):
        if t is not None and t.dtype.kind == "c":
            raise UnsupportedError(f"kernel {launch.kernel} does not take {t.dtype}")


def _padded(values: Strides, kept: int, reduced: int, fill: int) -> Strides:
    """With at least KEPT kept axes and one reduced axis."""
    return (*(fill,) * (KEPT - kept), *values[:kept], *(values[kept : kept + reduced] or (fill,)))


def _distance(stride: int) -> int:
    return abs(int(stride)) or _FAR


def _elements(t: Tensor) -> int:
    """How many different elements a view has."""
    return prod([int(n) for n, s in zip(t.shape, t.strides) if s != 0])
