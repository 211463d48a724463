// gemm: what its strategies share. gemm.cpp reads a launch into a GemmShape and picks a strategy.
#pragma once
#include <memory>
#include <string>

#include "core/launch.h"
#include "cpu/tile.h"

namespace ptrt::PTRT_LEVEL {

// y[batch, m, n] = alpha * sum_k A[batch, m, k] * B[batch, k, n] in canonical axes: the launch's output and epilogue operands have been
// reshaped (in the descriptor itself) to rank nb + 2, rows of a batch whose B is broadcast are folded into m, and y's unit stride is on n
// if it has one on either axis (roles of the operands are swapped for that). Strides in elements.
struct GemmShape {
  int ia = 0, ib = 1;  // operand numbers of A and B; their zero points are operands ia + 2 and ib + 2
  int nb = 0;
  int64_t batch[kMaxDims] = {}, as[kMaxDims] = {}, bs[kMaxDims] = {}, ys[kMaxDims] = {};
  int64_t batches = 1;
  int64_t M = 0, N = 0, K = 0;
  int64_t am = 0, ak = 0, bk = 0, bn = 0, ym = 0, yn = 0;
  double alpha = 1;
};

// kKept: A stays A. kNarrow: few columns become few rows, too, where the operand that is then streamed has a unit stride and, if that is on
// k, enough of k.
enum class Roles { kKept, kByOutput, kNarrow };
GemmShape canonical_gemm(LaunchDesc& desc, Roles roles);

// Input k, or null if it is absent.
inline const Operand* optional_input(const LaunchDesc& d, int k) {
  return static_cast<size_t>(k) < d.ins.size() && d.ins[static_cast<size_t>(k)].present() ? &d.ins[static_cast<size_t>(k)] : nullptr;
}

// An offset that is linear in the batch index: sum of index * strides.
inline int64_t batch_offset(const GemmShape& s, int64_t batch, const int64_t* strides) {
  int64_t offset = 0;
  for (int d = s.nb - 1; d >= 0; d--) {
    offset += batch % s.batch[d] * strides[d];
    batch /= s.batch[d];
  }
  return offset;
}

// Dense numbering of the distinct batches of an operand: strides (in batches) that are 0 where the operand's are.
struct BatchPack {
  int64_t count = 1, strides[kMaxDims] = {};
  BatchPack() = default;
  BatchPack(const GemmShape& s, const int64_t* operand_strides) {
    for (int d = s.nb - 1; d >= 0; d--) {
      if (operand_strides[d] == 0) continue;
      strides[d] = count;
      count *= s.batch[d];
    }
  }
  // The operand's offset of distinct batch `i`.
  int64_t offset(const GemmShape& s, int64_t i, const int64_t* operand_strides) const {
    int64_t o = 0;
    for (int d = 0; d < s.nb; d++)
      if (strides[d]) o += i / strides[d] % s.batch[d] * operand_strides[d];
    return o;
  }
};

// The index of a batch along every batch axis.
inline void batch_index(const GemmShape& s, int64_t batch, int64_t* index) {
  for (int d = s.nb - 1; d >= 0; d--) {
    index[d] = batch % s.batch[d];
    batch /= s.batch[d];
  }
}

// How the rows and panels of one batch are cut into tasks.
struct GemmGrid {
  int64_t row_groups = 1, panel_groups = 1;
  bool brief = false;  // all tasks together take about 20 microseconds or less
  int64_t rows(const GemmShape& s) const { return (s.M + row_groups - 1) / row_groups; }  // of the largest task
  int64_t panels(int64_t all) const { return (all + panel_groups - 1) / panel_groups; }
  RowSplit row_split(const GemmShape& s) const { return RowSplit(s.M, rows(s)); }
  RowSplit panel_split(int64_t all) const { return RowSplit(all, panels(all)); }
};

struct GridLimits {
  int64_t panel, rows;  // columns of a panel, rows of the largest tile
  int64_t row_bytes;    // of A that one row of a task touches at a time
  int64_t c_bytes;      // the most bytes of C (4 or 8 per element are counted as `c_item`)
  int64_t c_item;
  int64_t speed;    // multiply-adds that take the time of one in f32
  int64_t b_bytes;  // of B that all tasks of a batch stream past: what few rows wait for
  int threads;
  bool by_rows;  // cut C into rows only
  bool program;  // one follows, and runs along the rows of a task's part of C: few columns would cost it most of its time in calls
};

// Tasks whose part of A stays in L2 while panels stream past, and enough of them for the threads if they are worth it. The grid may follow
// the number of threads because no result depends on it.
GemmGrid gemm_grid(const GemmShape& s, const GridLimits& limits);

// What the packing of a constant B depends on, for PackCache keys.
std::string b_layout(const GemmShape& s);

// Sizes of buffers; throws KernelError on overflow.
size_t checked_bytes(int64_t a, int64_t b, int64_t c, int64_t item);

// dst[r * ld + c] = src[r * rs + c * cs], converted from `dtype` to T (float: from f32, f16, bf16; double: from f64).
template <class T>
void copy_matrix(T* dst, int64_t ld, const void* src, DType dtype, int64_t rs, int64_t cs, int64_t rows, int64_t cols);
// dst[r * rs + c * cs] = src[r * ld + c], converted to `dtype`, rounding to nearest even.
template <class T>
void store_matrix(void* dst, DType dtype, int64_t rs, int64_t cs, const T* src, int64_t ld, int64_t rows, int64_t cols);
// Packs rows [k0, k1) of panels [p0, p1) of a K x N matrix: out[panel][k][nr], columns beyond N are 0.
struct PanelRange {
  int64_t p0, p1, k0, k1;
};
template <class T>
void pack_panels(T* out, const void* src, DType dtype, int64_t bk, int64_t bn, int64_t K, int64_t N, int nr, const PanelRange& range);

std::unique_ptr<Kernel> make_gemm_float(LaunchDesc desc, const GemmShape& s, BindContext& bind);  // f32 f16 bf16 f64
std::unique_ptr<Kernel> make_gemm_int8(LaunchDesc desc, const GemmShape& s, BindContext& bind);   // 8-bit to int32
std::unique_ptr<Kernel> make_gemm_int(LaunchDesc desc, const GemmShape& s);                       // 32 and 64-bit integers, no zero points
std::unique_ptr<Kernel> make_gemm_plain(LaunchDesc desc, const GemmShape& s, BindContext& bind);  // any dtype, no blocking

}  // namespace ptrt::PTRT_LEVEL
