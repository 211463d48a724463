// map: y = body(x...), elementwise over rank-n strided operands.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/move.h"
#include "cpu/vm.h"
#include "cpu/vm_ops.h"

namespace ptrt::PTRT_LEVEL {
namespace {

struct Axis {
  int64_t n;
  int64_t out;              // stride of the output, in elements, >= 0
  std::vector<int64_t> in;  // strides of the inputs
  int axis;                 // the axis of the output that iota instructions name, or -1 if it does not matter
  int64_t first, step;      // the index along that axis is first + i * step
};

class Map final : public Kernel {
 public:
  explicit Map(LaunchDesc d) : Kernel(std::move(d)), vm_(desc.body, types(desc.ins), DType::none) {
    const Operand& out = desc.outs.at(0);
    if (vm_.result() != out.dtype) throw KernelError("map: the program's result has another dtype than the output");
    for (const Operand& x : desc.ins) {
      if (x.ndim != out.ndim) throw KernelError("map: operands must have the output's rank");
      for (int i = 0; i < x.ndim; i++)
        if (x.shape[i] != out.shape[i]) throw KernelError("map: operands must have the output's shape");
      in_size_.push_back(static_cast<int64_t>(itemsize(x.dtype)));
    }
    in_offset_.assign(desc.ins.size(), 0);
    empty_ = out.size() == 0;
    if (!empty_) plan();
    int64_t widest = static_cast<int64_t>(itemsize(out.dtype)), bytes = out.size() * widest;
    for (size_t k = 0; k < desc.ins.size(); k++) {
      bytes += distinct(desc.ins[k]) * in_size_[k];
      widest = std::max(widest, in_size_[k]);
    }
    if (bytes > kCached && widest > 2) vm_.streams();
    blocks_bytes_ = (desc.ins.size() * sizeof(Block) + 63) & ~size_t{63};
  }

  bool constants_move() const override { return true; }
  size_t thread_scratch_bytes() const override { return vm_.scratch_bytes() + blocks_bytes_; }

  void run(const RunContext& ctx) override {
    if (empty_) return;
    ctx.parallel(tasks_, [&](int64_t task, int worker) { run_task(task, ctx.thread_scratch(worker)); });
  }

  std::string describe() const override {
    return "blocks of " + std::to_string(rows_) + "x" + std::to_string(cols_) + ", " + std::to_string(tasks_) + " tasks";
  }

 private:
  static std::vector<DType> types(const std::vector<Operand>& ops) {
    std::vector<DType> t;
    for (const Operand& o : ops) t.push_back(o.dtype);
    return t;
  }

  static int64_t distinct(const Operand& x) {  // elements that are read from memory
    int64_t n = 1;
    for (int i = 0; i < x.ndim; i++) n *= x.strides[i] ? x.shape[i] : 1;
    return n;
  }

  // Elements that make a task worth handing to another thread.
  int64_t grain() const {
    int64_t cost = 1;
    for (const Instr& i : desc.body) {
      const Op op = static_cast<Op>(i.op);
      const bool slow = op == Op::pow_ || op == Op::mod_ || op == Op::fmod_ || (op >= Op::exp_ && op <= Op::gelu_tanh_ && op != Op::relu_);
      cost += slow ? 8 : kOpArity[i.op] > 0;
    }
    return std::max<int64_t>(4096, 65536 / cost);
  }

  void plan() {
    const Operand& out = desc.outs[0];
    bool by_iota[kMaxDims] = {};
    for (const Instr& i : desc.body)
      if (i.op == static_cast<int32_t>(Op::iota_) && i.args[0] < out.ndim) by_iota[i.args[0]] = true;
    std::vector<Axis> axes;
    out_offset_ = 0;
    for (int i = 0; i < out.ndim; i++) {
      if (out.shape[i] == 1) continue;
      Axis a{out.shape[i], out.strides[i], {}, by_iota[i] ? i : -1, 0, 1};
      for (const Operand& x : desc.ins) a.in.push_back(x.strides[i]);
      if (a.out < 0) {  // walk the output forwards
        out_offset_ += (a.n - 1) * a.out;
        a.out = -a.out;
        for (size_t k = 0; k < a.in.size(); k++) in_offset_[k] += (a.n - 1) * a.in[k], a.in[k] = -a.in[k];
        a.first = a.n - 1, a.step = -1;
      }
      axes.push_back(std::move(a));
    }
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.out > b.out; });
    for (size_t i = 0; i + 1 < axes.size();) {  // merge neighbours that are one axis in every operand
      Axis &a = axes[i], &b = axes[i + 1];
      bool ok = a.axis < 0 && b.axis < 0 && a.out == b.out * b.n;
      for (size_t k = 0; k < a.in.size(); k++) ok &= a.in[k] == b.in[k] * b.n;
      if (ok) {
        b.n *= a.n;
        axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(i));
        i = i ? i - 1 : 0;
      } else {
        i++;
      }
    }
    const int64_t grain = this->grain();
    auto unit = [&] {
      Axis a{1, 0, std::vector<int64_t>(desc.ins.size(), 0), -1, 0, 1};
      return a;
    };
    if (axes.empty()) axes.push_back(unit());
    col_ = axes.back();
    axes.pop_back();
    // Rows: the axis along which a transposed operand is contiguous, else the next faster one of the output.
    int best = -1;
    for (size_t k = 0; k < desc.ins.size(); k++)
      if (std::abs(col_.in[k]) > 1)
        for (size_t i = 0; i < axes.size(); i++)
          if (std::abs(axes[i].in[k]) == 1 && axes[i].n > 3) best = static_cast<int>(i);
    if (best < 0) best = static_cast<int>(axes.size()) - 1;
    if (best >= 0) {
      row_ = axes[static_cast<size_t>(best)];
      axes.erase(axes.begin() + best);
    } else {
      row_ = unit();
    }
    outer_ = std::move(axes);
    // Blocks of about `grain` elements; small ones are grouped into tasks.
    cols_ = std::min(col_.n, std::max<int64_t>(grain, 2048) & ~int64_t{511});
    col_blocks_ = (col_.n + cols_ - 1) / cols_;
    rows_ = std::max<int64_t>(1, std::min(row_.n, grain / cols_));
    if (rows_ > 16 && rows_ < row_.n) rows_ &= ~int64_t{15};
    row_blocks_ = (row_.n + rows_ - 1) / rows_;
    blocks_ = col_blocks_ * row_blocks_;
    for (const Axis& a : outer_) blocks_ *= a.n;
    blocks_per_task_ = std::max<int64_t>(1, grain / (rows_ * cols_));
    tasks_ = (blocks_ + blocks_per_task_ - 1) / blocks_per_task_;
  }

  void run_task(int64_t task, char* scratch) const {
    Block* ins = reinterpret_cast<Block*>(scratch);
    scratch += blocks_bytes_;
    Iota iota[kMaxDims];
    const int64_t end = std::min(blocks_, (task + 1) * blocks_per_task_);
    const size_t n_in = desc.ins.size();
    const int64_t out_size = static_cast<int64_t>(itemsize(desc.outs[0].dtype));
    for (int64_t b = task * blocks_per_task_; b < end; b++) {
      int64_t t = b;
      const int64_t c = t % col_blocks_ * cols_;
      t /= col_blocks_;
      const int64_t r = t % row_blocks_ * rows_;
      t /= row_blocks_;
      int64_t out_at = out_offset_ + r * row_.out + c * col_.out;
      for (size_t k = 0; k < n_in; k++) ins[k].row_stride = in_offset_[k] + r * row_.in[k] + c * col_.in[k];
      if (row_.axis >= 0) iota[row_.axis] = {row_.first + r * row_.step, row_.step, 0};
      if (col_.axis >= 0) iota[col_.axis] = {col_.first + c * col_.step, 0, col_.step};
      for (size_t i = outer_.size(); i-- > 0;) {
        const Axis& a = outer_[i];
        const int64_t x = t % a.n;
        t /= a.n;
        out_at += x * a.out;
        for (size_t k = 0; k < n_in; k++) ins[k].row_stride += x * a.in[k];
        if (a.axis >= 0) iota[a.axis] = {a.first + x * a.step, 0, 0};
      }
      for (size_t k = 0; k < n_in; k++) {
        ins[k].data = static_cast<char*>(desc.ins[k].data) + ins[k].row_stride * in_size_[k];
        ins[k].row_stride = row_.in[k], ins[k].col_stride = col_.in[k];
      }
      const Block out{static_cast<char*>(desc.outs[0].data) + out_at * out_size, row_.out, col_.out};
      vm_.run(std::min(rows_, row_.n - r), std::min(cols_, col_.n - c), ins, {}, out, scratch, iota);
    }
  }

  static constexpr int64_t kCached = 8 << 20;  // bytes that may still be in an L3 that is shared
  Vm vm_;
  bool empty_ = false;
  std::vector<int64_t> in_size_, in_offset_;
  int64_t out_offset_ = 0;
  Axis row_{}, col_{};
  std::vector<Axis> outer_;
  int64_t rows_ = 0, cols_ = 0, row_blocks_ = 0, col_blocks_ = 0, blocks_ = 0, blocks_per_task_ = 0, tasks_ = 0;
  size_t blocks_bytes_ = 0;
};

}  // namespace

namespace {

// Is the program one load?
bool moves(const LaunchDesc& d) {
  if (d.body.size() != 1 || static_cast<Op>(d.body[0].op) != Op::load_ || d.body[0].args[0] != 0 || d.ins.size() != 1) return false;
  const Operand &x = d.ins[0], &y = d.outs.at(0);
  return x.dtype == y.dtype && x.ndim == y.ndim && std::equal(x.shape, x.shape + x.ndim, y.shape);
}

void spread(int size, int64_t rows, int64_t cols, const char* in, int64_t in_row, int64_t, char* out, int64_t out_row, int64_t) {
  copy2d(size, rows, cols, in, in_row / size, 0, out, out_row / size, 1);
}

}  // namespace

std::unique_ptr<Kernel> make_map(LaunchDesc desc, BindContext&) {
  if (moves(desc)) return PTRT_PLAIN::make_move(std::move(desc), spread);
  return std::make_unique<Map>(std::move(desc));
}

}  // namespace ptrt::PTRT_LEVEL
