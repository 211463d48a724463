"""What a `gemm` launch must fulfil, for the backends that plan it in Python: with the texts of the C++ kernel."""

from __future__ import annotations

from ..dtypes import DType, code_of
from ..errors import UnsupportedError
from ..lowering.tensor import Launch, Tensor


def check(ok: object, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"gemm: {what}")


def name(dtype: DType) -> str:
    """A short name of a dtype: f32, u8, bf16, ...; "" for one that no product is made of."""
    return {1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 10: "f16", 11: "f64", 12: "u32", 13: "u64", 16: "bf16",
            21: "u4", 22: "i4"}.get(code_of(dtype), "")  # fmt: skip


def optional(launch: Launch, position: int) -> Tensor | None:
    """Input `position`, or None."""
    return launch.ins[position] if position < len(launch.ins) else None


def validate(launch: Launch) -> None:
    """Raises UnsupportedError, with the texts of the C++ kernel."""
    a, b = (launch.ins[0], launch.ins[1]) if len(launch.ins) > 1 else (None, None)
    y = launch.outs[0]
    check(a is not None and b is not None and y is not None and len(launch.ins) <= 5, "expected operands a, b, a_zero?, b_zero? and y")
    assert a is not None and b is not None and y is not None
    r = y.ndim
    check(r >= 2 and a.ndim == r and b.ndim == r, "a, b and y must have the same rank >= 2")
    acc = launch.acc_dtype if launch.epilogue and launch.acc_dtype is not None else y.dtype
    if optional(launch, 4) is not None:
        _validate_dequantising(launch, a, b, y, acc)
    else:
        _validate_plain(launch, a, b, y, acc)
    check(all(e.ndim == r for e in launch.epi_ins), "epilogue operands must have y's rank")


def _validate_plain(launch: Launch, a: Tensor, b: Tensor, y: Tensor, acc: DType) -> None:
    r = y.ndim
    check(all(t.shape[i] in (1, y.shape[i]) for t in (a, b) for i in range(r - 2)), "batch axes do not match")
    check(a.shape[-2] == y.shape[-2] and b.shape[-1] == y.shape[-1] and a.shape[-1] == b.shape[-2], "shapes do not match")
    for z, of, along in ((optional(launch, 2), a, r - 1), (optional(launch, 3), b, r - 2)):
        if z is None:
            continue
        check(z.dtype == of.dtype and z.ndim == r, "a zero point must have its operand's dtype and rank")
        check(all(n in (1, m) for n, m in zip(z.shape, of.shape)), "a zero point's shape does not broadcast")
        check(z.shape[along] == 1 or z.strides[along] == 0, "a zero point must not vary along k")
    if name(a.dtype) in ("i8", "u8"):
        check(name(b.dtype) in ("i8", "u8") and name(acc) == "i32", "8-bit operands give int32")
    else:
        check(a.dtype == b.dtype == acc, "a, b and the result must have one dtype")
        check(name(a.dtype) not in ("", "u4", "i4"), "dtype not supported")
    if launch.params.get("precision", "full") != "full":
        zeros = optional(launch, 2) is not None or optional(launch, 3) is not None
        check(
            name(a.dtype) == "f32" and not zeros and b.known,
            "a reduced precision needs f32 operands without zero points and a constant b",
        )
        if launch.params["precision"] == "int8":
            check(a.shape[-1] <= 65536, "int8 takes sums of at most 65536 products")


def _validate_dequantising(launch: Launch, a: Tensor, b: Tensor, y: Tensor, acc: DType) -> None:
    r, k = y.ndim, int(a.shape[-1])
    scale, zero, pairs, block = optional(launch, 4), optional(launch, 3), launch.params.get("pairs", 0), launch.params.get("block", 0)
    assert scale is not None
    check(name(a.dtype) in ("f32", "f16", "bf16"), "b_scale needs an f32, f16 or bf16 a")
    check(acc == a.dtype, "the result has a's dtype")
    check(name(b.dtype) == "u8" if pairs else name(b.dtype) in ("i8", "u8", "i4", "u4"), "b_scale needs an integer b of 8 or 4 bits")
    check(b.known and optional(launch, 2) is None, "b_scale needs a constant b and no a_zero")
    for i in range(r - 2):
        check(a.shape[i] in (1, y.shape[i]) and (b.shape[i] == 1 or b.strides[i] == 0), "batch axes do not match")
    check(
        a.shape[-2] == y.shape[-2] and b.shape[-1] == y.shape[-1] and b.shape[-2] == ((k + 1) // 2 if pairs else k), "shapes do not match"
    )
    parameters = ("f32", "f16", "bf16")
    check(name(scale.dtype) in parameters, "b_scale must be f32, f16 or bf16")
    blocks = int(scale.shape[-2]) if scale.ndim == r else 0
    for o in (zero, scale):
        if o is None:
            continue
        own = o.dtype == b.dtype
        check((name(o.dtype) in parameters or own) and o.known and o.ndim == r, "b_scale and b_zero must be constants of b's rank")
        check(all(o.shape[i] == 1 or o.strides[i] == 0 for i in range(r - 2)), "b_scale and b_zero must not vary along batches")
        rows = (blocks + 1) // 2 if pairs and own else blocks
        check(
            (o.shape[-2] == rows or (o.shape[-2] == 1 and not own) or rows == 1) and o.shape[-1] in (1, y.shape[-1]),
            "b_scale or b_zero does not broadcast",
        )
    size = block or max(1, k)
    check(blocks >= 1 and size >= 1 and blocks == max(1, -(-k // size)), f"b_scale has {blocks} blocks of {size} for {k} values")
