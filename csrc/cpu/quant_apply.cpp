// Applies what quant_epilogue.cpp recognised: one pass over sums.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/bytes.h"
#include "cpu/quant_epilogue.h"

namespace ptrt::PTRT_LEVEL {
namespace {

enum class Side { none, f32, u8, i8 };  // the residual

// What models mostly have, without a test per step: only the last rounding to bytes; or the pair in the middle, a residual and a division.
// With a table there are two passes: up to the byte that is looked up, and from its floats (in place of sums) on.
enum class Form { any, last, residual, to_byte, from_float };

template <Side R, bool BYTES, Form F>
PTRT_NOINLINE void rows_of(const QuantEpilogue& e, const QuantColumns& c, const int32_t* from, bool floats, int64_t from_row, void* to,
                           int64_t to_row, int64_t rows, int64_t n, const void* residual, int64_t residual_row) {
  const vf lo1 = splat(e.lo1), hi1 = splat(e.hi1), s1 = splat(e.s1), lo = splat(e.lo), hi = splat(e.hi), s2 = splat(e.s2),
           lo2 = splat(e.lo2), hi2 = splat(e.hi2), s3 = splat(e.s3), rz = splat(e.residual_zero), rs = splat(e.residual_scale);
  const vf back = splat(e.back), offset = splat(e.offset);
  const vi zero = splat(e.zero2), first_zero = splat(e.table_zero);
  constexpr bool kAny = F == Form::any || F == Form::from_float, kWhole = F == Form::residual;
  const bool between = kWhole || (F == Form::any && e.between), divide = kWhole || (kAny && e.divide),
             shift = (F == Form::any || F == Form::to_byte) && e.shift >= 0, clamp = F != Form::last && e.clamp, again = kAny && e.again,
             fused = F == Form::any && e.fused;
  // One vector of columns after the other: what varies by column stays in registers.
  const auto columns = [&](int64_t j, auto whole) __attribute__((always_inline)) {
    constexpr bool kVector = decltype(whole)::value;
    const int count = kVector ? W : static_cast<int>(n - j);
    const vi bias = load(c.bias + j);
    const vf bias_f = to_float(bias), scale = load(c.scale + j), shift_by = load(c.shift + j);
    const int32_t* sums = from + j;
    int64_t at = j, out = j;
    for (int64_t i = 0; i < rows; i++, sums += from_row, at += residual_row, out += to_row) {
      const vi sum = load(sums);
      vf v = (vf)sum;
      vi middle = {};
      if constexpr (F != Form::from_float) {
        v = (floats ? v + bias_f : to_float(sum + bias)) * scale;
        PTRT_KEEP(v);  // products are rounded, as the operators of the model do
        if (shift) v += shift_by;
        if (F == Form::to_byte || between) middle = rounded(bounded(v, lo1, hi1));
        if constexpr (F == Form::to_byte) {
          store_bytes(static_cast<uint8_t*>(to) + out, middle + first_zero, count);
          continue;
        }
        if (between) {
          v = to_float(middle) * s1;
          PTRT_KEEP(v);
        }
      }
      if constexpr (R == Side::f32) {
        v += load_n(static_cast<const float*>(residual) + at, count);
      } else if constexpr (R != Side::none) {
        typedef std::conditional_t<R == Side::u8, uint8_t, int8_t> B;
        const vf bytes = load_bytes(static_cast<const B*>(residual) + at, count);
        if (fused) {
          v = (to_float(middle) + back) * s1 + (bytes * rs + offset);
        } else {
          vf r = (bytes - rz) * rs;
          PTRT_KEEP(r);
          v += r;
        }
      }
      if (clamp) v = vmin(hi, vmax(lo, v));
      if (divide) v /= s2;
      if constexpr (BYTES) {
        store_bytes(static_cast<uint8_t*>(to) + out, rounded(bounded(v, lo2, hi2)) + zero, count);
      } else {
        if (again) v = to_float(rounded(bounded(v, lo2, hi2))) * s3;
        store_n(static_cast<float*>(to) + out, v, count);
      }
    }
  };
  int64_t j = 0;
  for (; j + W <= n; j += W) columns(j, std::true_type());
  if (j < n) columns(j, std::false_type());
}

int64_t padded(int64_t columns) { return (columns + W - 1) / W * W + W; }

}  // namespace

size_t quant_columns_bytes(int64_t columns) { return (static_cast<size_t>(padded(columns)) * 12 + 63) / 64 * 64; }

QuantColumns gather_quant_columns(const QuantEpilogue& e, const LaunchDesc& desc, int axis, int64_t columns, void* memory) {
  const int64_t all = padded(columns);
  auto* scale = static_cast<float*>(memory);
  float* shift = scale + all;
  auto* bias = reinterpret_cast<int32_t*>(shift + all);
  std::fill(scale, scale + all, static_cast<float>(e.alpha));
  std::fill(shift, shift + all, 0.0f);
  std::fill(bias, bias + all, 0);
  const auto stride = [&](int k) {
    const Operand& o = desc.epi_ins[static_cast<size_t>(k)];
    return o.shape[axis] == 1 ? 0 : o.strides[axis];
  };
  // to[i] = f(to[i], the value of channel i of operand k)
  const auto combine = [&](auto* to, int k, auto&& f) {
    typedef std::remove_reference_t<decltype(*to)> T;
    const T* from = desc.epi_ins[static_cast<size_t>(k)].as<const T>();
    int64_t i = 0;
    if (stride(k) == 1)
      for (; i + W <= columns; i += W) store(to + i, f(load(to + i), load(from + i)));
    for (; i < columns; i++) to[i] = f(to[i], from[i * stride(k)]);
  };
  const auto second = [](auto, auto value) { return value; };
  for (int k : e.scales)
    if (k >= 0) combine(scale, k, [](auto a, auto b) { return a * b; });
  if (e.shift >= 0) combine(shift, e.shift, second);
  if (e.bias >= 0) combine(bias, e.bias, second);
  return {scale, shift, bias};
}

PTRT_COLD bool quant_takes_floats(const QuantEpilogue& e, const LaunchDesc& desc) {
  if (e.bias < 0) return true;
  const Operand& b = desc.epi_ins[static_cast<size_t>(e.bias)];
  if (!b.is_const()) return false;
  for (int axis = 0; axis < b.ndim; axis++)
    if (b.strides[axis] != 0)
      for (int64_t i = 0; i < b.shape[axis]; i++)
        if (std::abs(static_cast<double>(b.as<const int32_t>()[i * b.strides[axis]])) > 1 << 24) return false;
  return b.size() == 0 || std::abs(static_cast<double>(*b.as<const int32_t>())) <= 1 << 24;
}

void apply_quant(const QuantEpilogue& e, const QuantColumns& c, const void* from, bool floats, int64_t from_row, void* to, int64_t to_row,
                 int64_t rows, int64_t n, const void* residual, DType residual_type, int64_t residual_row) {
  typedef void (*Fn)(const QuantEpilogue&, const QuantColumns&, const int32_t*, bool, int64_t, void*, int64_t, int64_t, int64_t,
                     const void*, int64_t);
#define PTRT_SIDES(bytes, form)                                                                                                       \
  {                                                                                                                                   \
    rows_of<Side::none, bytes, form>, rows_of<Side::f32, bytes, form>, rows_of<Side::u8, bytes, form>, rows_of<Side::i8, bytes, form> \
  }
  static constexpr Fn fns[3][4] = {PTRT_SIDES(false, Form::any), PTRT_SIDES(true, Form::any), PTRT_SIDES(true, Form::residual)};
  static constexpr Fn from_floats[2][4] = {PTRT_SIDES(false, Form::from_float), PTRT_SIDES(true, Form::from_float)};
#undef PTRT_SIDES
  const int side = !residual ? 0 : residual_type == DType::f32 ? 1 : residual_type == DType::u8 ? 2 : 3;
  const bool bytes = e.out != DType::f32;
  const auto* sums = static_cast<const int32_t*>(from);
  constexpr Fn to_bytes = rows_of<Side::none, true, Form::to_byte>;
  if (e.lookup && bytes) {
    to_bytes(e, c, sums, floats, from_row, to, to_row, rows, n, nullptr, 0);
    e.table.look_up(rows, n, to, to_row, to, to_row);
    return;
  }
  if (!e.table.empty()) {  // by way of floats in L1
    constexpr int64_t kRows = 16, kColumns = 64;
    alignas(64) uint8_t index[kRows * kColumns];
    alignas(64) float values[kRows * kColumns];
    const int64_t item = bytes ? 1 : 4, residual_item = side == 1 ? 4 : 1;
    for (int64_t j = 0; j < n; j += kColumns)
      for (int64_t i = 0; i < rows; i += kRows) {
        const int64_t some = std::min(kRows, rows - i), columns = std::min(kColumns, n - j);
        char* out = static_cast<char*>(to) + (i * to_row + j) * item;
        const QuantColumns here{c.scale + j, c.shift + j, c.bias + j};
        to_bytes(e, here, sums + i * from_row + j, floats, from_row, index, kColumns, some, columns, nullptr, 0);
        if (e.lookup) {
          e.table.look_up(some, columns, index, kColumns, out, to_row);
          continue;
        }
        e.table.look_up(some, columns, index, kColumns, values, kColumns);
        const char* side_values = residual ? static_cast<const char*>(residual) + (i * residual_row + j) * residual_item : nullptr;
        from_floats[bytes][side](e, here, reinterpret_cast<const int32_t*>(values), false, kColumns, out, to_row, some, columns,
                                 side_values, residual_row);
      }
  } else {
    const bool whole = bytes && e.between && e.divide && e.shift < 0 && !e.fused;
    const bool last = bytes && side == 0 && !e.between && !e.divide && !e.clamp && e.shift < 0;
    const Fn fn = last ? rows_of<Side::none, true, Form::last> : fns[bytes + whole][side];
    fn(e, c, sums, floats, from_row, to, to_row, rows, n, residual, residual_row);
  }
  if (!e.last.empty()) e.last.look_up(rows, n, to, to_row, to, to_row);
}

}  // namespace ptrt::PTRT_LEVEL
