// Floating-point gemm with a constant B that is kept in panels of a narrower format: the frame that all formats share. A format says how a
// panel is stored, what A becomes before the tiles read it, and which tiles multiply them.
//
// Bits: the order of an element's sum depends on the shape alone, never on the tile or the split into tasks, so the task grid may follow
// the number of threads.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/vocabulary.h"
#include "cpu/gemm.h"
#include "cpu/gemm_rows.h"
#include "cpu/linear_epilogue.h"
#include "cpu/tile.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {

class PackedGemm : public Kernel {
 public:
  static constexpr int kVectors = 2, kColumns = kVectors * W;  // of a panel

  PackedGemm(LaunchDesc d, const GemmShape& shape);
  size_t shared_scratch_bytes() const override { return shared_bytes_; }
  size_t thread_scratch_bytes() const override { return thread_bytes_; }
  PTRT_COLD std::string describe() const override;
  void run(const RunContext& ctx) override;

 protected:
  struct Format {
    std::string name, key;      // of the layout: packs of one name, key and source are the same
    int64_t per_unit = 1;       // values of k in the 32 bits that a tile broadcasts from A
    int64_t block_units = 768;  // K is cut into even blocks of at most so many units; 0: never
    int64_t speed = 1;          // multiply-adds that take the time of one in f32
    bool pack_a = false;        // even if A is f32 with a unit stride on k
    bool expand = false;        // tiles read an f32 copy of a block of a panel, made in thread scratch
    int64_t panel_bytes = 0;    // of one stored panel
    int64_t row_bytes = 0;      // of shared scratch beside every packed row of A
  };
  struct At {
    int64_t batch, row, panel;  // a row of the packed A's batch (`batch` counts its distinct batches), a panel of all of B's
  };
  // Derived constructors call this last.
  void setup(const Format& format, BindContext& bind);

  // Stores the panel of columns n0 .. n0 + n, n <= kColumns, whose first element is b + offset; what lies beyond n and K must multiply to
  // 0.
  virtual void pack_panel(char* out, const Operand& b, int64_t offset, int64_t n0, int64_t n) const = 0;
  // Rows of A from element `offset` on become rows of pitch `pitch` (in units). By default they become f32.
  virtual void pack_rows(float* out, int64_t pitch, const Operand& a, int64_t offset, int64_t rows, char* beside) const;
  // Units k0 .. k0 + units of a stored panel as tiles read them; `scratch` is there if the format expands.
  virtual const float* units(const char* panel, int64_t k0, int64_t units, float* scratch) const = 0;
  // One tile: rows at.row .. at.row + mr. `beside` is the row_bytes of its first row.
  virtual void tile(int mr, const TileArgs<float>& g, const At& at, const char* beside) const = 0;

  const Operand& in(int k) const { return desc.ins[static_cast<size_t>(k)]; }
  bool few_rows() const { return s_.M <= kFewRows; }
  GemmShape s_;

 private:
  const Operand& epi(int k) const { return desc.epi_ins[static_cast<size_t>(k)]; }
  bool gathers_bias() const { return linear_.ok && linear_.bias >= 0 && s_.N != 1 && epi(linear_.bias).strides[s_.nb + 1] != 1; }
  const float* bias_pointer(const RunContext& ctx) const;
  void block(const RunContext& ctx, int64_t batch, int64_t row_group, int64_t panel_group, const float* bias, char* scratch) const;
  void finish(int64_t batch, int64_t m0, int64_t mc, int64_t n0, int64_t nc, float* buffer, int64_t ld, int64_t y0, char* scratch) const;

  Format f_;
  LinearEpilogue linear_;
  std::vector<Epilogue> program_;  // zero or one
  bool buffered_ = false, partial_ = false, pack_a_ = false;
  int64_t panels_ = 0, units_ = 0, block_ = 0, pitch_ = 0;
  GemmGrid grid_;
  BatchPack a_batches_, b_batches_;
  std::shared_ptr<const void> packed_;
  size_t shared_bytes_ = 0, thread_bytes_ = 0, a_offset_ = 0, beside_offset_ = 0, expand_offset_ = 0, c_offset_ = 0, bias_offset_ = 0,
         vm_offset_ = 0;
};

// A and B rounded to bf16 and multiplied in pairs where the machine has the instruction; elsewhere the rounded values are multiplied in
// f32.
std::unique_ptr<Kernel> make_gemm_bf16(LaunchDesc desc, const GemmShape& s, BindContext& bind);
// B as int8 with a scale per column (desc.ins[4] if B is int8 already), rows of A quantised to uint8 as they are packed.
std::unique_ptr<Kernel> make_gemm_quant(LaunchDesc desc, const GemmShape& s, BindContext& bind);
// B stored in `stored` (f16 or bf16), f32 arithmetic. round_a: A is rounded to the same format.
std::unique_ptr<Kernel> make_gemm_halves(LaunchDesc desc, const GemmShape& s, DType stored, bool round_a, BindContext& bind);

// B of integers, dequantised as it is read: (b - zero) * scale. block: values of k per scale, 0: all; pairs: two 4-bit values in a byte of
// B.
std::unique_ptr<Kernel> make_gemm_dequant(LaunchDesc desc, const GemmShape& s, int64_t block, bool pairs, GemmPrecision precision,
                                          BindContext& bind);

// The same with rows of A quantised to 16 bits per block, where bytes are multiplied fast and sums of a block fit into 32 bits.
bool takes_digits(const LaunchDesc& desc, int64_t K, int64_t block, bool pairs, BindContext& bind);
std::unique_ptr<Kernel> make_gemm_digits(LaunchDesc desc, const GemmShape& s, int64_t block, bool pairs, BindContext& bind);

}  // namespace ptrt::PTRT_LEVEL
