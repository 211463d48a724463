"""The kernel vocabulary, as data: every backend implements it, the planner reads it, `csrc/core/vocabulary.h` is generated from it.

A kernel is an out-variant over strided operands. Conventions, for all kernels and backends:

* An operand has a dtype, a shape and strides in elements (0 on size-1 and broadcast axes, possibly negative). Any strides are legal.
* Outputs never overlap inputs, except where the planner decided to run in place: a `map` operand or an epilogue operand may be the very
  memory of the output, with the same strides.
* Outputs are never broadcast and never have two elements at one address. Launches whose outputs are all empty are never recorded; inputs
  may be empty (e.g. a reduction over an empty axis).
* `prologue=True`: operand 0 may be replaced by a program over other operands. `epilogue=True`: a program may be applied to output 0.
* Parameters are encoded in the order given here. `enum` parameters are encoded as the index into `choices`.

This module imports nothing but the standard library: the build runs it to generate the C++ header.
"""

from __future__ import annotations


class Param:
    """One parameter: `kind` is one of int, float, ints, floats, enum (int doubles as bool)."""

    __slots__ = ("choices", "default", "kind", "name")

    def __init__(self, name: str, kind: str, default: object = None, choices: tuple[str, ...] = ()) -> None:
        self.name, self.kind, self.default, self.choices = name, kind, default, choices


class KernelSpec:
    """One kernel. In `inputs`/`outputs`, a trailing `?` marks an optional operand and `*` a variable number of operands."""

    __slots__ = ("doc", "epilogue", "id", "inputs", "name", "outputs", "param_names", "params", "prologue")

    def __init__(
        self,
        name: str,
        id: int,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        params: tuple[Param, ...] = (),
        prologue: bool = False,
        epilogue: bool = False,
        doc: str = "",
    ) -> None:
        self.name, self.id, self.inputs, self.outputs, self.params = name, id, inputs, outputs, params
        self.prologue, self.epilogue, self.doc = prologue, epilogue, doc
        self.param_names = tuple([p.name for p in params])


def _int(name: str, default: int | None = None) -> Param:
    return Param(name, "int", default)


def _float(name: str, default: float | None = None) -> Param:
    return Param(name, "float", default)


def _ints(name: str, default: tuple[int, ...] | None = None) -> Param:
    return Param(name, "ints", default)


def _floats(name: str, default: tuple[float, ...] | None = None) -> Param:
    return Param(name, "floats", default)


def _enum(name: str, *choices: str) -> Param:
    return Param(name, "enum", choices[0], choices)


REDUCE_OPS = ("sum", "mean", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square")
ACTIVATIONS = (
    "sigmoid", "tanh", "relu", "affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu", "softsign", "softplus",
)  # fmt: skip
NODE_MODES = ("leaf", "leq", "lt", "gte", "gt", "eq", "neq", "member")
GEMM_PRECISIONS = ("full", "bf16", "fp16", "int8", "int16")
REDUCTIONS = ("none", "add", "mul", "max", "min")
COORDINATE_MODES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize", "tf_half_pixel_for_nn",
)  # fmt: skip

_WINDOW = (_ints("strides"), _ints("dilations"), _ints("pads"))  # pads: all begins, then all ends

_SPECS = (
    KernelSpec("map", 0, ("x*",), ("y",), doc="y = body(x...): operands have y's rank and shape; the body is the launch's expression."),
    KernelSpec(
        "reduce", 1, ("x",), ("y",), (_enum("op", *REDUCE_OPS), _ints("axes")), prologue=True, epilogue=True,
        doc="axes: sorted, non-negative. y has x's rank, reduced axes have size 1. Integers wrap; mean of integers truncates. NaN propagates "
            "through max and min. f16/bf16 accumulate in f32. Empty axes: the neutral element (sum 0, prod 1, max -inf or lowest, min +inf or "
            "highest, mean NaN, log_sum and log_sum_exp -inf).",
    ),
    KernelSpec(
        "arg_reduce", 2, ("x",), ("y",), (_enum("op", "max", "min"), _int("axis"), _int("select_last", 0)), prologue=True,
        doc="y: int64, x's rank, size 1 along axis. First index of the extreme value, or the last with select_last. A NaN is extreme.",
    ),
    KernelSpec(
        "scan", 3, ("x",), ("y",), (_enum("op", "sum", "prod"), _int("axis"), _int("exclusive", 0), _int("reverse", 0)),
        doc="Cumulative sum or product along axis, in index order (reverse: from the end).",
    ),
    KernelSpec(
        "softmax", 4, ("x",), ("y",), (_enum("op", "softmax", "log_softmax", "hardmax"), _int("axis")), prologue=True, epilogue=True,
        doc="Along one axis, stabilised by the row maximum. A row that is all -inf gives NaN (as onnx.reference does).",
    ),
    KernelSpec(
        "normalize", 5, ("x", "scale?", "bias?"), ("y", "mean?", "inv_std?"),
        (_enum("op", "layer", "rms"), _ints("axes"), _float("epsilon")), prologue=True, epilogue=True,
        doc="Over the given axes (sorted; any subset): layer: (x-mean)/sqrt(var+epsilon)*scale+bias, two-pass variance; rms: "
            "x/sqrt(mean(x^2)+epsilon)*scale+bias. scale and bias have x's rank and shape (stride 0 where broadcast). mean and inv_std have "
            "x's rank with size 1 on the axes. f16/bf16 compute in f32.",
    ),
    KernelSpec(
        "gemm", 6, ("a", "b", "a_zero?", "b_zero?", "b_scale?"), ("y",),
        (_float("alpha", 1.0), _enum("precision", *GEMM_PRECISIONS), _int("block", 0), _int("pairs", 0)), epilogue=True,
        doc="y[..., m, n] = alpha * sum_k (a[..., m, k] - a_zero) * (b[..., k, n] - b_zero). All three have the same rank >= 2; batch axes of a "
            "and b may be broadcast (stride 0) to y's. Floats: f64 f32 f16 bf16 (f16/bf16 accumulate in f32; subnormal "
            "numbers of bf16 may count as 0). 8-bit a and b (each signed or "
            "not): the sum is exact int32 and alpha is 1. Other integers wrap. a_zero: rank of a, broadcast to [..., m, 1]; b_zero: rank of b, "
            "broadcast to [..., 1, n]; same dtype as the operand they shift. K = 0 gives 0. Bias is an epilogue. precision, only for f32 with a "
            "constant b: bf16: a and b are rounded to bf16 (nearest even; subnormal numbers may become 0) and the products summed in f32. fp16: b is "
            "rounded to f16. int8: column n of b is kept as qb = round(b * (127 / most)) with scale most / 127, where most = max |b|; row m of a becomes "
            "qa = clamp(round(a * (255 / width)) + zero, 0, 255) with scale width / 255, width = max(a, 0) - min(a, 0), zero = round(-min(a, 0) * "
            "(255 / width)); the sum of (qa - zero) * qb is exact, and is rounded to f32 and multiplied by the f32 product of the scales; K <= 65536. "
            "Rows and columns with a width or most below 2**-100 count as 0, those with values or a width that are not finite give NaN. With b_scale, "
            "a is f32, f16 or bf16 and b a constant of int8, uint8, int4 or uint4 (pairs: of uint8 [ceil(k / 2), n] that hold two uint4 each, the even "
            "k in the low half): a is multiplied by (b - b_zero) * b_scale in f32. b_zero and b_scale are constants [blocks, n] with a row "
            "for every `block` values of k (0: one row for all), or [blocks, 1] or [1, 1], of f32, f16 or bf16; b_zero may also have b's own format "
            "(pairs: [ceil(blocks / 2), n]). Batch axes of b, b_zero and b_scale are broadcast. precision int8 with an f32 b_scale of one block, int8 b "
            "and no b_zero: rows of an f32 a may become qa as above, and b and b_scale are qb and its scale. precision int16 with b_scale: the values of "
            "a row of a that meet one block of b_scale may become round(a * (32639 / most)), most = max |a| of them, with scale most / 32639 (0 "
            "below 2**-100, NaN if not finite); the sum of their products with b - b_zero is exact.",
    ),
    KernelSpec(
        "conv", 7, ("x", "w", "b?", "x_zero?", "w_zero?"), ("y",), (*_WINDOW, _int("group", 1)), epilogue=True,
        doc="x [N, C, d...], w [M, C/group, k...], b [M], y [N, M, o...], 1 to 3 spatial axes. Zero padding (x_zero is what is padded with for "
            "integers). Float dtypes, or 8-bit to int32 with x_zero: rank 0 and w_zero: rank 0 or [M]. Memory order is given by strides: "
            "channels-last is the fast one for x and y, w may have any strides and usually is a constant.",
    ),
    KernelSpec(
        "conv_transpose", 8, ("x", "w", "b?"), ("y",), (*_WINDOW, _int("group", 1)), epilogue=True,
        doc="x [N, C, d...], w [C, M/group, k...], y [N, M, o...]: y[o] += x[i] * w[k] where o = i*stride + k*dilation - pad_begin, for every o "
            "inside y's shape (which already includes output_padding).",
    ),
    KernelSpec(
        "deform_conv", 9, ("x", "w", "offset", "b?", "mask?"), ("y",), (*_WINDOW, _int("group", 1), _int("offset_group", 1)), epilogue=True,
        doc="Deformable convolution (ONNX DeformConv-19), bilinear sampling, zero outside.",
    ),
    KernelSpec(
        "pool", 10, ("x",), ("y", "indices?"),
        (_enum("op", "max", "average", "lp"), _ints("kernel"), *_WINDOW, _int("count_include_pad", 0), _int("p", 2), _int("storage_order", 0)),
        epilogue=True,
        doc="x [N, C, d...], y [N, C, o...]. Padding never wins a max and adds 0 to a sum. average divides by the number of window elements "
            "inside x, or with count_include_pad by those inside x plus its pads (a ceil_mode overhang beyond the pads never counts). indices: "
            "int64, flat positions in x taken as row-major [N, C, d...] (storage_order 1: column-major spatial axes). Any dtype for max.",
    ),
    KernelSpec(
        "gather", 11, ("x", "indices"), ("y",), (_enum("mode", "axis", "elements", "nd"), _int("axis", 0), _int("batch_dims", 0)), epilogue=True,
        doc="axis: y = take(x, indices, axis), y's shape is x[:axis] + indices + x[axis+1:]. elements: y has the shape of indices. nd: GatherND "
            "with batch_dims. indices: int32 or int64, negative ones count from the end; one out of range raises. Any dtype for x.",
    ),
    KernelSpec(
        "scatter", 12, ("x", "indices", "updates"), ("y",), (_enum("mode", "elements", "nd"), _int("axis", 0), _enum("reduction", *REDUCTIONS)),
        doc="y = x, then y[indices] is set to (or reduced with) updates, in the row-major order of indices. y may be the memory of x. Bounds as "
            "in gather.",
    ),
    KernelSpec(
        "attention", 13, ("q", "k", "v", "mask?", "k_lengths?"), ("y",),
        (_float("scale"), _int("causal", 0), _int("causal_offset", 0), _float("softcap", 0.0), _int("masked_nan", 0)), epilogue=True,
        doc="q [B, H, S, D], k [B, G, T, D], v [B, G, T, E], y [B, H, S, E]; H is a multiple of G (head h reads group h // (H/G)). scores = q.k * "
            "scale; softcap > 0: softcap * tanh(scores / softcap); mask [B, H, S, T] (stride 0 where broadcast; bool: False means -inf, float: "
            "added); causal: key t is visible to query s if t <= s + causal_offset; k_lengths int64 [B]: keys t >= k_lengths[b] are invisible. "
            "Rows with no visible key give 0 (masked_nan: NaN if T > 0, as a composed softmax). f32, f64, f16, bf16.",
    ),
    KernelSpec(
        "recurrent", 14,
        ("x", "w", "r", "b?", "lengths?", "h0?", "c0?", "p?", "w_scale?", "w_zero?", "r_scale?", "r_zero?"), ("y?", "y_h?", "y_c?"),
        (
            _enum("cell", "lstm", "gru", "rnn"), _enum("direction", "forward", "reverse", "bidirectional"), _ints("activations"),
            _floats("alphas"), _floats("betas"), _float("clip", 0.0), _int("linear_before_reset", 0), _int("input_forget", 0),
        ),
        doc="ONNX layout 0 (strides may say otherwise): x [T, N, I], w [dirs, G*H, I], r [dirs, G*H, H], b [dirs, 2*G*H], lengths int32 [N], h0/c0 "
            "[dirs, N, H], p [dirs, 3*H], y [T, dirs, N, H], y_h/y_c [dirs, N, H]; gate order iofc (lstm), zrh (gru). activations: one index into "
            "ACTIVATIONS per gate function and direction, with its alpha and beta. clip 0: none. With w_scale/w_zero/r_scale/r_zero ([dirs] or "
            "[dirs, G*H]), w and r are 8-bit [dirs, I, G*H] and [dirs, H, G*H] as in com.microsoft DynamicQuantizeLSTM: the left operand is "
            "quantised per call (x: over [T*N, I]; h: per step) to uint8 as DynamicQuantizeLinear does, multiplied exactly, and rescaled.",
    ),
    KernelSpec(
        "resample", 15, ("x",), ("y",),
        (
            _enum("op", "nearest", "linear", "cubic"), _enum("coordinates", *COORDINATE_MODES),
            _enum("nearest", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"), _floats("scales"), _floats("roi"),
            _float("cubic_a", -0.75), _int("exclude_outside", 0), _float("extrapolation", 0.0), _int("antialias", 0),
        ),
        epilogue=True,
        doc="Resize of ONNX 19: x and y have the same rank, scales has one entry per axis (as the coordinate formulas use them), roi is 2*rank "
            "starts then ends (only for tf_crop_and_resize). Axes with scale 1 and equal sizes are untouched.",
    ),
    KernelSpec(
        "grid_sample", 16, ("x", "grid"), ("y",),
        (_enum("op", "linear", "nearest", "cubic"), _enum("padding", "zeros", "border", "reflection"), _int("align_corners", 0)),
        doc="ONNX GridSample: x [N, C, d...], grid [N, o..., spatial], y [N, C, o...].",
    ),
    KernelSpec(
        "roi_align", 17, ("x", "rois", "batch_indices"), ("y",),
        (_enum("op", "avg", "max"), _int("sampling_ratio", 0), _float("spatial_scale", 1.0), _int("half_pixel", 1)),
        doc="ONNX RoiAlign: x [N, C, H, W], rois [R, 4], batch_indices int64 [R], y [R, C, h, w].",
    ),
    KernelSpec(
        "topk", 18, ("x",), ("values", "indices"), (_int("axis"), _int("k"), _int("largest", 1), _int("sorted", 1)),
        doc="indices int64. Ties: the lower index first. NaN counts as the largest value. The result is always sorted.",
    ),
    KernelSpec(
        "nonzero", 19, ("x",), ("y",), doc="y int64 [rank, n], n known to be the number of non-zero elements, in row-major order of x.",
    ),
    KernelSpec(
        "compress", 20, ("x", "condition"), ("y",), (_int("axis"),),
        doc="y = x where the bool [n] condition is true along axis (y's size there is known to be the number of true values).",
    ),
    KernelSpec(
        "unique", 21, ("x",), ("y", "first", "inverse", "counts", "n"), (_int("sorted", 1),),
        doc="x [n] of any numeric dtype. y, first, counts have capacity n, of which the first n_unique are written; inverse is [n]; n is int64 [1]. "
            "sorted: ascending, NaNs last and equal to each other; otherwise in order of first occurrence.",
    ),
    KernelSpec(
        "nms", 22, ("boxes", "scores"), ("selected", "n"),
        (_int("center_point_box", 0), _int("max_per_class"), _float("iou_threshold"), _float("score_threshold"), _int("has_score_threshold", 0)),
        doc="ONNX NonMaxSuppression: boxes [B, S, 4], scores [B, C, S], selected int64 [capacity, 3] of which n (int64 [1]) rows are written.",
    ),
    KernelSpec(
        "fft", 23, ("x",), ("y",), (_int("axis"), _int("inverse", 0), _int("onesided", 0)),
        doc="DFT along axis. Both have a last axis of 1 (real) or 2 (complex); y's size along axis is the transform length, or half of it "
            "plus 1 if onesided; x is cropped or zero-padded to it. Computed in f64 for f32 and shorter.",
    ),
    KernelSpec(
        "random", 24, ("seed",), ("y",), (_enum("op", "uniform", "normal"), _float("a"), _float("b"), _int("stream")),
        doc="Philox4x32-10 keyed by seed (uint64 [1]) and stream: uniform in [a, b), or normal with mean a and deviation b.",
    ),
    KernelSpec(
        "tree_ensemble", 25,
        ("x", "features", "thresholds", "modes", "true_child", "false_child", "roots", "leaf_targets", "leaf_weights", "leaf_ranges",
         "missing_true", "member_sets?"), ("y",),
        (_enum("aggregate", "sum", "average", "min", "max"), _int("n_targets")),
        doc="x [n, f], y [n, n_targets] in float or double, the raw aggregate. Nodes of all trees are flat arrays (int32; thresholds float or "
            "double; modes index NODE_MODES uint8; missing_true bool): node i sends a row to true_child[i] if x[features[i]] "
            "MODE thresholds[i]. A leaf adds leaf_weights[j] to target leaf_targets[j] for j in leaf_ranges[i] .. leaf_ranges[i+1] (leaf_ranges: "
            "int32 [nodes+1]). roots int32 [trees]. NaN goes to the true child if missing_true, otherwise where the comparison sends it (neq: true). The "
            "k-th node of mode member, in node order, tests the k-th stretch of member_sets, whose stretches are separated by NaN. min and max of "
            "a target that no leaf reached are 0. All operands but x are constants; indices out of range and cycles raise at bind.",
    ),
    KernelSpec("linear_algebra", 26, ("x",), ("y",), (_enum("op", "det"),), doc="Determinant of [..., n, n] by partial pivoting in f64."),
    KernelSpec("col2im", 27, ("x",), ("y",), (_ints("kernel"), *_WINDOW), doc="ONNX Col2Im: x [N, C*prod(kernel), L], y [N, C, d...]."),
    KernelSpec(
        "max_unpool", 28, ("x", "indices"), ("y",), (_ints("reference_shape"),),
        doc="y is zero, then y.flat[...] = x at indices that are flat row-major positions in reference_shape (rank of y).",
    ),
    KernelSpec(
        "quantize_stats", 29, ("x",), ("scale", "zero_point"),
        doc="DynamicQuantizeLinear's scale (f32 rank 0) and zero_point (uint8 rank 0) of x: min and max widened to include 0, scale = "
            "(max-min)/255, zero_point = saturate(round(-min/scale)), scale 0 gives zero_point 0.",
    ),
    KernelSpec(
        "linear_attention", 30, ("q", "k", "v", "state?", "decay?", "beta?"), ("y", "present?"), (_float("scale"), _int("delta", 0)),
        doc="q [B, H, T, D], k [B, G, T, D], v [B, N, T, E], state [B, N, D, E] (absent: zeros), decay [B, N, T, D] (logarithms; stride 0 along D "
            "if one serves a head; absent: 0), beta [B, N, T] (absent: 1), y [B, M, T, E] with M = max(H, N), present [W, B, N, D, E], W >= 1. N is a "
            "multiple of G; of H and N one is a multiple of the other. Each of the N state heads n keeps S [D, E], at first its state, and reads key "
            "head n // (N/G); output head m reads query head m // (M/H) and state head m // (M/N). For t = 0 .. T-1: S[d, :] *= exp(decay[t, d]); "
            "u = beta[t] * (v[t] - S^T k[t]) with delta, else beta[t] * v[t]; S += k[t] u^T; y[t] = scale * S^T q[t]. present[W-1] is S "
            "after the last step (T = 0: the state), present[j] for j < W-1 is S after step T-W+j, zeros if there is no such step. Each operand "
            "is f32, f16, bf16 or f64; computed in f64 if q is f64, else in f32. S is not rounded between steps.",
    ),
)  # fmt: skip

SPECS: dict[str, KernelSpec] = {s.name: s for s in _SPECS}
assert len(SPECS) == len({s.id for s in _SPECS}) == len(_SPECS)

# Opcodes of `map` bodies, prologues and epilogues: name -> (code, number of arguments). The dtype of an instruction is the dtype of its
# result; `x` of a comparison, cast, is* or where-condition keeps its own. Semantics are those of the ONNX op of that name in that dtype:
# integers wrap, integer `div` truncates towards zero (x / 0 is 0, lowest / -1 is lowest: never a trap), `mod` follows the sign of the
# divisor, `fmod` that of the dividend, shifts by >= the width give 0, max/min propagate NaN, comparisons give bool.
OPCODES: dict[str, tuple[int, int]] = {
    name: (code, arity)
    for code, (name, arity) in enumerate(
        [
            # sources. load: args = (operand,); const: args = (value,); acc: the kernel's own result; iota: args = (axis,), index along an axis
            ("load", 0), ("const", 0), ("acc", 0), ("iota", 0),
            # conversions. cast: ONNX Cast (float to int truncates; to float8 saturates); cast_wrap: float8 without saturation;
            # cast_sat: round half to even, then saturate (quantisation)
            ("id", 1), ("cast", 1), ("cast_wrap", 1), ("cast_sat", 1),
            # arithmetic
            ("neg", 1), ("abs", 1), ("sign", 1), ("ceil", 1), ("floor", 1), ("round", 1), ("trunc", 1), ("sqrt", 1), ("rsqrt", 1), ("recip", 1),
            ("add", 2), ("sub", 2), ("mul", 2), ("div", 2), ("pow", 2), ("mod", 2), ("fmod", 2), ("max", 2), ("min", 2),
            # transcendental
            ("exp", 1), ("expm1", 1), ("log", 1), ("log1p", 1), ("sin", 1), ("cos", 1), ("tan", 1), ("asin", 1), ("acos", 1), ("atan", 1),
            ("sinh", 1), ("cosh", 1), ("tanh", 1), ("asinh", 1), ("acosh", 1), ("atanh", 1), ("erf", 1),
            # activations that deserve one pass
            ("relu", 1), ("sigmoid", 1), ("softplus", 1), ("silu", 1), ("gelu_erf", 1), ("gelu_tanh", 1),
            # predicates and logic
            ("isnan", 1), ("isinf_pos", 1), ("isinf_neg", 1), ("eq", 2), ("ne", 2), ("lt", 2), ("le", 2), ("gt", 2), ("ge", 2),
            ("land", 2), ("lor", 2), ("lxor", 2), ("lnot", 1), ("where", 3),
            # bits
            ("band", 2), ("bor", 2), ("bxor", 2), ("bnot", 1), ("shl", 2), ("shr", 2),
        ]
    )
}  # fmt: skip


def _cpp_shape(s: KernelSpec) -> str:
    required = [sum(1 << k for k, n in enumerate(names) if not n.endswith(("?", "*"))) for names in (s.inputs, s.outputs)]
    flags = [str(f).lower() for f in (any(n.endswith("*") for n in s.inputs), s.prologue, s.epilogue)]
    return f"{{{len(s.inputs)}, {len(s.outputs)}, {', '.join(flags)}, {required[0]}, {required[1]}}}"


def cpp_header() -> str:
    """The text of `csrc/core/vocabulary.h`."""
    lines = [
        "// Generated from pytensor_rt/kernels/spec.py by tools/gen_vocabulary.py. Do not edit.",
        "#pragma once",
        "#include <cstdint>",
        "",
    ]
    lines += ["namespace ptrt {", "", "enum class KernelId : int32_t {"]
    lines += [f"  {s.name} = {s.id}," for s in _SPECS] + ["};", f"constexpr int kNumKernels = {len(_SPECS)};"]
    lines += ["constexpr const char* kKernelNames[] = {" + ", ".join(f'"{s.name}"' for s in _SPECS) + "};", ""]
    lines += [
        "// Operands as spec.py lists them: bit k of `required_*` is set unless operand k is optional. any_ins: a variable number of inputs."
    ]
    lines += [
        "struct KernelShape {",
        "  int32_t ins, outs;",
        "  bool any_ins, prologue, epilogue;",
        "  uint32_t required_ins, required_outs;",
        "};",
    ]
    lines += ["constexpr KernelShape kKernelShapes[] = {"] + [f"  {_cpp_shape(s)},  // {s.name}" for s in _SPECS] + ["};", ""]
    lines += ["enum class Op : int32_t {"] + [f"  {n}_ = {c}," for n, (c, _) in OPCODES.items()] + ["};"]
    lines += [f"constexpr int kNumOps = {len(OPCODES)};"]
    lines += ["constexpr int8_t kOpArity[] = {" + ", ".join(str(a) for _, a in OPCODES.values()) + "};"]
    lines += ["constexpr const char* kOpNames[] = {" + ", ".join(f'"{n}"' for n in OPCODES) + "};", ""]
    for title, names in (
        ("GemmPrecision", GEMM_PRECISIONS), ("ReduceOp", REDUCE_OPS), ("Activation", ACTIVATIONS), ("NodeMode", NODE_MODES), ("Reduction", REDUCTIONS),
        ("Coordinates", COORDINATE_MODES),
    ):  # fmt: skip
        lines += [f"enum class {title} : int32_t {{"] + [f"  {n}_ = {i}," for i, n in enumerate(names)] + ["};"]
    return "\n".join(lines + ["", "}  // namespace ptrt", ""])
