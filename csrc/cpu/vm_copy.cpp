// Strided moves of raw elements.
#include "cpu/vm_ops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Raw16 {
  uint64_t a, b;
};

// Both sides by columns: 16 x 16 blocks keep every cache line that a block touches in L1.
template <class T>
void transpose(int64_t rows, int64_t cols, const T* in, int64_t ir, int64_t ic, T* out, int64_t orow, int64_t oc) {
  constexpr int64_t B = 16;
  for (int64_t r = 0; r < rows; r += B) {
    const int64_t nr = rows - r < B ? rows - r : B;
    for (int64_t c = 0; c < cols; c += B) {
      const int64_t nc = cols - c < B ? cols - c : B;
      const T* p = in + r * ir + c * ic;
      T* q = out + r * orow + c * oc;
      for (int64_t i = 0; i < nr; i++)
        for (int64_t j = 0; j < nc; j++) q[i * orow + j * oc] = p[i * ir + j * ic];
    }
  }
}

template <class T>
void move(int64_t rows, int64_t cols, const T* in, int64_t ir, int64_t ic, T* out, int64_t orow, int64_t oc) {
  if (oc == 1 && ic == 1) {
    const size_t bytes = static_cast<size_t>(cols) * sizeof(T);
    for (int64_t r = 0; r < rows; r++) {
      const T* p = in + r * ir;
      T* q = out + r * orow;
      if (p == q) continue;
      if (bytes > 64) {
        std::memcpy(q, p, bytes);
      } else {
        for (int64_t c = 0; c < cols; c++) q[c] = p[c];
      }
    }
  } else if (oc == 1 && ic == 0) {
    int64_t r = 0;
    if constexpr (sizeof(T) <= 8) {
      constexpr int64_t n = kVecBytes / sizeof(T);
      typedef T V __attribute__((vector_size(kVecBytes)));
      const int64_t whole = (cols + n - 1) / n * n;
      if (orow == cols)  // whole vectors: the next rows overwrite what is too much
        for (; r * cols + whole <= rows * cols; r++) {
          const V x = V{} + in[r * ir];
          for (int64_t c = 0; c < cols; c += n) std::memcpy(out + r * cols + c, &x, sizeof x);
        }
    }
    for (; r < rows; r++) {
      const T x = in[r * ir];
      T* q = out + r * orow;
      for (int64_t c = 0; c < cols; c++) q[c] = x;
    }
  } else if (oc == 1 && rows == 1) {
    for (int64_t c = 0; c < cols; c++) out[c] = in[c * ic];
  } else if (ic == 1 && rows == 1) {
    for (int64_t c = 0; c < cols; c++) out[c * oc] = in[c];
  } else {
    transpose(rows, cols, in, ir, ic, out, orow, oc);
  }
}

template <class T>
void fill(int64_t n, const void* value, void* out) {
  const T x = *static_cast<const T*>(value);
  T* o = static_cast<T*>(out);
  for (int64_t i = 0; i < n; i++) o[i] = x;
}

}  // namespace

void copy2d(int size, int64_t rows, int64_t cols, const void* in, int64_t ir, int64_t ic, void* out, int64_t orow, int64_t oc) {
#define PTRT_MOVE(T) move(rows, cols, static_cast<const T*>(in), ir, ic, static_cast<T*>(out), orow, oc)
  switch (size) {
    case 1: return PTRT_MOVE(uint8_t);
    case 2: return PTRT_MOVE(uint16_t);
    case 4: return PTRT_MOVE(uint32_t);
    case 8: return PTRT_MOVE(uint64_t);
    default: return PTRT_MOVE(Raw16);
  }
#undef PTRT_MOVE
}

void fill_n(int size, int64_t n, const void* value, void* out) {
  switch (size) {
    case 1: return fill<uint8_t>(n, value, out);
    case 2: return fill<uint16_t>(n, value, out);
    case 4: return fill<uint32_t>(n, value, out);
    case 8: return fill<uint64_t>(n, value, out);
    default: return fill<Raw16>(n, value, out);
  }
}

}  // namespace ptrt::PTRT_LEVEL
