// Strided moves of raw elements.
#include "cpu/move.h"
#include "cpu/vm_ops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Raw16 {
  uint64_t a, b;
};

template <class T>
PTRT_INLINE T value(const T* p, int64_t i) {  // (runs of narrower elements are not aligned)
  T x;
  std::memcpy(&x, p + i, sizeof x);
  return x;
}

template <class T>
PTRT_INLINE void fill(T x, int64_t n, T* out) {
  int64_t i = 0;
  if constexpr (sizeof(T) <= 8) {
    constexpr int64_t L = kVecBytes / sizeof(T);
    typedef T V __attribute__((vector_size(kVecBytes)));
    if (n >= L) {
      const V v = V{} + x;
      for (; i < n - L; i += L) std::memcpy(out + i, &v, sizeof v);
      std::memcpy(out + n - L, &v, sizeof v);
      return;
    }
  }
  for (; i < n; i++) std::memcpy(out + i, &x, sizeof x);
}

// Every row one value, by this level's vectors.
template <class T>
void spread(int64_t rows, int64_t cols, const T* in, int64_t ir, T* out, int64_t orow) {
  int64_t r = 0;
  if constexpr (sizeof(T) <= 8) {
    constexpr int64_t n = kVecBytes / sizeof(T);
    typedef T V __attribute__((vector_size(kVecBytes)));
    const int64_t whole = (cols + n - 1) / n * n;
    if (orow == cols)  // whole vectors: the next rows overwrite what is too much
      for (; r * cols + whole <= rows * cols; r++) {
        const V x = V{} + value(in, r * ir);
        for (int64_t c = 0; c < cols; c += n) std::memcpy(out + r * cols + c, &x, sizeof x);
      }
  }
  for (; r < rows; r++) fill(value(in, r * ir), cols, out + r * orow);
}

}  // namespace

void copy2d(int size, int64_t rows, int64_t cols, const void* in, int64_t ir, int64_t ic, void* out, int64_t orow, int64_t oc) {
  if (ic != 0 || oc != 1 || cols == 1)
    return PTRT_PLAIN::move2d(size, rows, cols, static_cast<const char*>(in), ir * size, ic * size, static_cast<char*>(out), orow * size,
                              oc * size);
#define PTRT_SPREAD(T) spread(rows, cols, static_cast<const T*>(in), ir, static_cast<T*>(out), orow)
  switch (size) {
    case 1: return PTRT_SPREAD(uint8_t);
    case 2: return PTRT_SPREAD(uint16_t);
    case 4: return PTRT_SPREAD(uint32_t);
    case 8: return PTRT_SPREAD(uint64_t);
    default: return PTRT_SPREAD(Raw16);
  }
#undef PTRT_SPREAD
}

void fill_n(int size, int64_t n, const void* value, void* out) { copy2d(size, 1, n, value, 0, 0, out, 0, 1); }

}  // namespace ptrt::PTRT_LEVEL
