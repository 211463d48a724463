// gemm of 32 and 64-bit integers, which wrap: blocks of rows times panels of B, a panel in scratch where B's columns are not contiguous or
// do not fill it.
#include <algorithm>

#include "cpu/gemm.h"
#include "cpu/reduce_vec.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlockK = 256, kBlockRows = 64;
constexpr int kRows = 4, kVectors = kVecBytes == 64 ? 4 : 2;  // of a tile: what fits the registers

// C[i][j] += sum over k of A[i * lda + k * ks] * B[k * ldb + j], i < MR, j < kVectors * lanes.
template <class U, int MR>
void int_tile(int64_t K, const U* A, int64_t lda, int64_t ks, const U* B, int64_t ldb, U* C, int64_t ldc) {
  constexpr int L = kLanes<U>;
  Vec<U> c[MR][kVectors];
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int v = 0; v < kVectors; v++) c[i][v] = vload(C + i * ldc + v * L);
  for (int64_t k = 0; k < K; k++, A += ks, B += ldb) {
    Vec<U> b[kVectors];
    PTRT_UNROLL for (int v = 0; v < kVectors; v++) b[v] = vload(B + v * L);
    PTRT_UNROLL for (int i = 0; i < MR; i++) {
      const Vec<U> a = vsplat(A[i * lda]);
      PTRT_UNROLL for (int v = 0; v < kVectors; v++) c[i][v] += a * b[v];
    }
  }
  PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int v = 0; v < kVectors; v++) vstore(C + i * ldc + v * L, c[i][v]);
}

template <class U>
class IntGemm final : public Kernel {
  static constexpr int kColumns = kVectors * kLanes<U>;

 public:
  PTRT_COLD IntGemm(LaunchDesc d, const GemmShape& shape)
      : Kernel(std::move(d)), s_(shape), row_groups_((s_.M + kBlockRows - 1) / kBlockRows), panels_((s_.N + kColumns - 1) / kColumns) {
    if (!desc.epilogue.empty()) program_.push_back(Epilogue(desc));
  }
  size_t thread_scratch_bytes() const override {
    return sizeof(U) * kColumns * (kBlockK + kBlockRows) + (program_.empty() ? 0 : program_[0].scratch_bytes());
  }
  PTRT_COLD std::string describe() const override { return "integer tiles"; }

  void run(const RunContext& ctx) override {
    const int64_t tasks = row_groups_ * panels_;
    ctx.parallel(s_.batches * tasks, [&](int64_t t, int worker) {
      block(t / tasks, t % tasks / panels_ * kBlockRows, t % panels_ * kColumns, ctx.thread_scratch(worker));
    });
  }

 private:
  void block(int64_t batch, int64_t m0, int64_t n0, char* scratch) const {
    const Operand& y = desc.outs[0];
    const U* a = desc.ins[static_cast<size_t>(s_.ia)].as<const U>() + batch_offset(s_, batch, s_.as) + m0 * s_.am;
    const U* b = desc.ins[static_cast<size_t>(s_.ib)].as<const U>() + batch_offset(s_, batch, s_.bs) + n0 * s_.bn;
    U *panel = reinterpret_cast<U*>(scratch), *c = panel + kColumns * kBlockK;
    const int64_t rows = std::min(kBlockRows, s_.M - m0), columns = std::min<int64_t>(kColumns, s_.N - n0);
    const bool in_place = s_.bn == 1 && columns == kColumns;
    std::fill(c, c + rows * kColumns, U{0});
    for (int64_t k0 = 0; k0 < s_.K; k0 += kBlockK) {
      const int64_t kc = std::min(kBlockK, s_.K - k0);
      const U *tile_b = b + k0 * s_.bk, *tile_a = a + k0 * s_.ak;
      if (!in_place) {
        pack(panel, tile_b, kc, columns);
        tile_b = panel;
      }
      const int64_t ldb = in_place ? s_.bk : kColumns;
      int64_t m = 0;
      for (; m + kRows <= rows; m += kRows)
        int_tile<U, kRows>(kc, tile_a + m * s_.am, s_.am, s_.ak, tile_b, ldb, c + m * kColumns, kColumns);
      for (; m < rows; m++) int_tile<U, 1>(kc, tile_a + m * s_.am, s_.am, s_.ak, tile_b, ldb, c + m * kColumns, kColumns);
    }
    if (program_.empty()) {
      U* to = y.as<U>() + batch_offset(s_, batch, s_.ys) + m0 * s_.ym + n0 * s_.yn;
      for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < columns; n++) to[m * s_.ym + n * s_.yn] = c[m * kColumns + n];
      return;
    }
    int64_t index[kMaxDims] = {};
    batch_index(s_, batch, index);
    index[s_.nb] = m0;
    index[s_.nb + 1] = n0;
    program_[0].apply(desc, index, s_.nb, rows, s_.nb + 1, columns, Block{c, kColumns, 1},
                      reinterpret_cast<char*>(c + kColumns * kBlockRows));
  }

  // The columns that are missing hold what earlier panels left: their sums are not stored.
  void pack(U* panel, const U* b, int64_t kc, int64_t columns) const {
    if (s_.bn == 1) {
      for (int64_t k = 0; k < kc; k++) std::memcpy(panel + k * kColumns, b + k * s_.bk, static_cast<size_t>(columns) * sizeof(U));
      return;
    }
    for (int64_t n = 0; n < columns; n++)
      for (int64_t k = 0; k < kc; k++) panel[k * kColumns + n] = b[k * s_.bk + n * s_.bn];
  }

  GemmShape s_;
  int64_t row_groups_, panels_;
  std::vector<Epilogue> program_;  // zero or one
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_int(LaunchDesc desc, const GemmShape& s) {
  if (itemsize(desc.ins[0].dtype) == 4) return std::make_unique<IntGemm<uint32_t>>(std::move(desc), s);
  return std::make_unique<IntGemm<uint64_t>>(std::move(desc), s);
}

}  // namespace ptrt::PTRT_LEVEL
