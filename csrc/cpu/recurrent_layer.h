// A recurrent layer as the kernel sees it: checked sizes, gate configuration, and the order in which weights and gate columns are kept.
#pragma once
#include "cpu/float_rows.h"
#include "cpu/recurrent_gates.h"
#include "cpu/recurrent_quant.h"

namespace ptrt::PTRT_LEVEL {

// Columns that one recurrent product makes: `gates` interleaved gates starting at gate `first`.
struct GateGroup {
  int gates = 0, first = 0;
  int64_t vecs = 0, col = 0;  // vectors; first column in a row of input products
};

struct RecurrentLayer {
  enum In { kX, kW, kR, kB, kLengths, kH0, kC0, kP, kWScale, kWZero, kRScale, kRZero, kNumIns };
  enum Out { kY, kYh, kYc, kNumOuts };
  enum Cell { kLstm, kGru, kRnn };

  int cell = kLstm, gates = 4, n_groups = 1;
  int64_t dirs = 1;
  bool reverse[2] = {false, true};
  bool quant = false, linear_before_reset = false;
  int64_t T = 0, N = 0, I = 0, H = 0;
  int lanes = 1;
  int64_t blocks = 0, padded = 0, cols = 0;  // blocks of `lanes` hidden units; blocks * lanes; gates * padded
  int64_t w_depth = 0, r_depth = 0;          // k steps of packed weights (units when quantised)
  GateGroup groups[2];

  // Operands by number; absent ones may also be missing from the end of the list.
  static const Operand& in(const LaunchDesc& desc, int k) { return at(desc.ins, k); }
  static const Operand& out(const LaunchDesc& desc, int k) { return at(desc.outs, k); }

  void parse(const LaunchDesc& desc, int lane_count);  // throws KernelError
  template <class S>
  CellConfig<S> config(const LaunchDesc& desc, int64_t dir) const;

  // Quantised weights are followed by [colsum: dirs * cols][left: dirs * cols] of recurrent_quant.h.
  int64_t weight_elements(int which) const {
    return checked_mul(checked_mul(dirs, cols), (which == kW ? w_depth : r_depth) + (quant ? 2 : 0));
  }
  std::string pack_key(const LaunchDesc& desc, int which) const;
  // Panels of two vectors (a group's last may have one), k inside a panel. S: float, double, or int32_t when quantised.
  template <class S>
  void pack(const LaunchDesc& desc, int which, S* to) const;

  // The small parameters of a direction, in gate column order: [bias of the input product: cols][bias of the recurrent candidate product:
  // padded][peepholes i, o, f: 3 * padded][w scales: cols][r scales: cols].
  int64_t small_stride() const { return 3 * cols + 4 * padded; }
  template <class S>
  void pack_small(const LaunchDesc& desc, S* to) const;

 private:
  static const Operand& at(const std::vector<Operand>& list, int k) {
    static const Operand absent;
    return static_cast<size_t>(k) < list.size() ? list[static_cast<size_t>(k)] : absent;
  }
  template <class F>
  void each_column(F f) const;  // f(group, column within a row, gate row in ONNX order, hidden unit), hidden < H only
};

}  // namespace ptrt::PTRT_LEVEL
