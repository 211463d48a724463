// What gather, scatter and their relatives share: loop nests over several operands at once, and checked indices.
#pragma once
#include <string>

#include "cpu/simd.h"

namespace ptrt::PTRT_LEVEL {
namespace {

PTRT_INLINE void need(bool ok, const char* kernel, const char* what) {
  if (!ok) throw KernelError(std::string(kernel) + ": " + what);
}

[[noreturn, maybe_unused]] PTRT_NOINLINE void index_error(int64_t i, int axis, int64_t n) {
  throw KernelError("index " + std::to_string(i) + " is out of range for axis " + std::to_string(axis) + " of size " + std::to_string(n));
}

// An index as it comes from data: negative ones count from the end.
template <class I>
PTRT_INLINE int64_t checked_index(const char* p, int axis, int64_t n) {
  I raw;
  std::memcpy(&raw, p, sizeof raw);
  const int64_t v = raw < 0 ? static_cast<int64_t>(raw) + n : static_cast<int64_t>(raw);
  if (static_cast<uint64_t>(v) >= static_cast<uint64_t>(n)) index_error(raw, axis, n);
  return v;
}

inline bool is_index(DType t) { return t == DType::i32 || t == DType::i64; }

inline bool same_shape(const Operand& a, const Operand& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; i++)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

// A loop nest over K operands, slowest axis first, with strides in bytes. finish() drops axes of size 1, merges neighbours that are one
// axis for all operands, and leaves at least one axis.
template <int K>
struct Axes {
  int nd = 0;
  int64_t shape[2 * kMaxDims + 1];
  int64_t stride[2 * kMaxDims + 1][K];

  template <class... S>
  void push(int64_t n, S... s) {
    const int64_t v[K] = {s...};
    shape[nd] = n;
    for (int k = 0; k < K; k++) stride[nd][k] = v[k];
    nd++;
  }
  void finish() {
    int m = 0;
    for (int i = 0; i < nd; i++) {
      const int64_t n = shape[i];
      if (n == 1) continue;
      bool merge = m > 0;
      for (int k = 0; k < K && merge; k++) merge = stride[m - 1][k] == stride[i][k] * n;
      if (!merge) shape[m++] = 1;
      shape[m - 1] *= n;
      for (int k = 0; k < K; k++) stride[m - 1][k] = stride[i][k];
    }
    nd = m;
    if (nd == 0) {
      shape[0] = 1;
      for (int k = 0; k < K; k++) stride[0][k] = 0;
      nd = 1;
    }
  }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < nd; i++) n *= shape[i];
    return n;
  }
  // f(offsets, count): for every stretch of the last axis within the flat positions [begin, end), in order.
  template <class F>
  PTRT_INLINE void walk(int64_t begin, int64_t end, F&& f) const {
    if (begin >= end) return;
    int64_t c[2 * kMaxDims + 1], off[K] = {};
    int64_t rest = begin;
    for (int i = nd - 1; i >= 0; i--) {
      c[i] = rest % shape[i];
      rest /= shape[i];
      for (int k = 0; k < K; k++) off[k] += c[i] * stride[i][k];
    }
    const int last = nd - 1;
    for (;;) {
      int64_t n = shape[last] - c[last];
      if (n > end - begin) n = end - begin;
      f(static_cast<const int64_t*>(off), n);
      begin += n;
      if (begin >= end) return;
      for (int k = 0; k < K; k++) off[k] -= c[last] * stride[last][k];
      c[last] = 0;
      for (int i = last - 1; i >= 0; i--) {
        for (int k = 0; k < K; k++) off[k] += stride[i][k];
        if (++c[i] < shape[i]) break;
        for (int k = 0; k < K; k++) off[k] -= shape[i] * stride[i][k];
        c[i] = 0;
      }
    }
  }
};

// n elements of E bytes between any byte strides.
template <int E>
PTRT_INLINE void copy_elements(char* y, int64_t sy, const char* x, int64_t sx, int64_t n) {
  if (sx == E && sy == E) {
    std::memcpy(y, x, static_cast<size_t>(n) * E);
    return;
  }
  for (int64_t j = 0; j < n; j++) std::memcpy(y + j * sy, x + j * sx, E);
}

using CopyFn = void (*)(char*, int64_t, const char*, int64_t, int64_t);
template <int E>
void copy_strided(char* y, int64_t sy, const char* x, int64_t sx, int64_t n) {
  copy_elements<E>(y, sy, x, sx, n);
}
inline CopyFn copy_fn(size_t item) {
  switch (item) {
    case 1: return copy_strided<1>;
    case 2: return copy_strided<2>;
    case 4: return copy_strided<4>;
    case 8: return copy_strided<8>;
    default: return copy_strided<16>;
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
