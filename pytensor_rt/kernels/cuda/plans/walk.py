"""What windows.py, sampling.py and signal.py share, above all how a kernel walks its output: the axes in the order of its memory, of which
those that the kernel itself looks at stay apart and the others merge where every operand allows it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ....dtypes import F16, F32, F64, DType, is_float
from ....lowering.tensor import Tensor
from ...axes import Strides, merge
from ..build import Builder


def is_standard(dtype: DType) -> bool:
    """Is it f64, f32, f16 or bf16?"""
    return dtype in (F64, F32, F16) or (is_float(dtype) and dtype.name == "bfloat16")


class Walk:
    """Coordinates of an output: `sizes`, the `strides` of all operands over them, `slots`: which coordinate an axis that is kept apart became."""

    __slots__ = ("sizes", "slots", "strides")

    def __init__(self, shape: Sequence[int], strides: Sequence[Strides], order: Sequence[int], apart: Collection[int]) -> None:
        groups: list[list[int]] = []
        joined = False
        for axis in order:
            if axis in apart or not joined:
                groups.append([axis])
            else:
                groups[-1].append(axis)
            joined = axis not in apart
        axes = merge(shape, strides, groups)
        self.sizes, self.strides = axes.sizes, axes.strides
        # Axes of size 1 are no coordinates: -1.
        self.slots = {g[0]: first if count else -1 for g, (first, count) in zip(groups, axes.groups) if g[0] in apart}

    @property
    def rank(self) -> int:
        """Coordinates, of which there always is one."""
        return max(1, len(self.sizes))


def memory_order(t: Tensor) -> list[int]:
    """Axes from the slowest to the fastest in memory."""
    return sorted(range(t.ndim), key=lambda i: (-abs(int(t.strides[i])), i))


def vector_width(axis: int, tensors: Sequence[Tensor], most: int = 16) -> int:
    """How many neighbours along `axis` all operands move at once: as many as make 16 bytes of the widest, `most` at most, or 1."""
    n = int(tensors[0].shape[axis])
    if any(int(t.strides[axis]) != 1 for t in tensors):
        return 1
    width = min(most, 16 // max(t.dtype.itemsize for t in tensors))
    while width > 1:
        if n % width == 0 and all(
            int(t.offset) % width == 0 and all(int(s) % width == 0 for i, s in enumerate(t.strides) if i != axis) for t in tensors
        ):
            return width
        width //= 2
    return 1


def constants(b: Builder, name: str, values: Sequence[int]) -> None:
    """A compile-time array of int; at least one element is declared."""
    held = ", ".join(str(int(v)) for v in values) or "0"
    b.lines.append(f"PTRT_TABLE int {name}[] = {{{held}}};")


def results(b: Builder, rank: int, width: int) -> None:
    """`store_lot(a, c, v)`, to be called after Builder.output: WIDTH results of type Value<Acc> that start at coordinates c.

    With WIDTH > 1 they are neighbours along the last coordinate and leave as one Pack.
    """
    if width == 1:
        text = "store_y(a, c, v[0]);"
    else:
        value = "epilogue(a, c, rounded<Acc>(v[i]))" if b.launch.epilogue else "op::cast<Y, Acc>(v[i])"
        text = (
            f"Pack<Y, WIDTH> out;\n  const Idx first = c[{rank - 1}];\n#pragma unroll\n  for (int i = 0; i < WIDTH; i++) {{\n"
            f"    c[{rank - 1}] = first + i;\n    out.at[i] = stored<Y>({value});\n  }}\n"
            f"  c[{rank - 1}] = first;\n  store_pack(a.y_data + at_y(a, c), out);"
        )
    b.functions.append(f"__forceinline__ void store_lot(const Args& a, Idx (&c)[{rank}], const Value<Acc> (&v)[WIDTH]) {{\n  {text}\n}}")


def named(b: Builder) -> None:
    """The macro ENTRY: the kernel's name, for sources that serve several entries of the manifest."""
    b.lines.append(f"#define ENTRY {b.entry.name}")
