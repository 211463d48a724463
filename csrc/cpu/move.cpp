// Copies of strided operands: pieces of lines, blocks of rows, or transposed blocks, one after the other in the order of the output.
#include "cpu/move.h"

#include <algorithm>

namespace ptrt::PTRT_LEVEL {
namespace {

constexpr int64_t kBlockBytes = 1 << 18;  // of a task
// Transposed blocks read few rows at once, and long pieces of them. Operands that are in no cache are written row by row instead, if the
// lines that are read several times over stay in a cache of so many ways.
constexpr int64_t kTurnedBytes = 128, kTurnedElements = 4096;
constexpr int64_t kCacheBytes = 1 << 24, kWayBytes = 1 << 17, kWays = 4;

struct Axis {
  int64_t n, in, out;  // strides in bytes
};

class Move final : public Kernel {
 public:
  Move(LaunchDesc d, Move2d spread) : Kernel(std::move(d)), spread_(spread) {
    size_ = static_cast<int>(itemsize(desc.outs.at(0).dtype));
    if (desc.outs[0].size() != 0) plan();
  }

  void run(const RunContext& ctx) override {
    ctx.parallel(tasks_, [&](int64_t task, int) { run_task(task); });
  }

  bool constants_move() const override { return true; }
  std::string describe() const override {
    return "blocks of " + std::to_string(rows_) + "x" + std::to_string(cols_) + " elements of " + std::to_string(size_) + " bytes, " +
           std::to_string(tasks_) + " tasks";
  }

 private:
  void plan() {
    const Operand &out = desc.outs[0], &in = desc.ins[0];
    std::vector<Axis> axes;
    for (int i = 0; i < out.ndim; i++) {
      if (out.shape[i] == 1) continue;
      Axis a{out.shape[i], in.strides[i] * size_, out.strides[i] * size_};
      if (a.out < 0) flip(a);  // walk the output forwards
      axes.push_back(a);
    }
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.out > b.out; });
    for (size_t i = axes.size(); i-- > 1;) {  // merge neighbours that are one axis on both sides
      Axis &a = axes[i - 1], &b = axes[i];
      if (a.out != b.out * b.n || a.in != b.in * b.n) continue;
      a = {a.n * b.n, b.in, b.out};
      axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(i));
    }
    widen(axes);
    if (axes.empty()) axes.push_back({1, size_, size_});
    choose(axes);
  }

  void flip(Axis& a) {
    in_offset_ += (a.n - 1) * a.in, out_offset_ += (a.n - 1) * a.out;
    a.in = -a.in, a.out = -a.out;
  }

  // Runs of 2, 4, 8 or 16 bytes are elements.
  void widen(std::vector<Axis>& axes) {
    if (axes.empty()) return;
    const Axis a = axes.back();
    const int64_t bytes = a.n * size_;
    if (a.in == size_ && a.out == size_ && bytes <= 16 && (bytes & (bytes - 1)) == 0) size_ = static_cast<int>(bytes), axes.pop_back();
  }

  // Columns are the fastest axis of the output. Rows are the axis along which the input is contiguous if columns are not, else the next
  // faster one, or if that is short the longest.
  void choose(std::vector<Axis>& axes) {
    const Axis col = axes.back();
    axes.pop_back();
    int at = static_cast<int>(axes.size()) - 1, across = -1;
    for (size_t i = 0; i < axes.size(); i++) {
      if (std::abs(axes[i].in) == size_ && (across < 0 || axes[i].n >= axes[static_cast<size_t>(across)].n)) across = static_cast<int>(i);
      if (axes[static_cast<size_t>(at)].n < 8 && axes[i].n > axes[static_cast<size_t>(at)].n) at = static_cast<int>(i);
    }
    const bool turned = across >= 0 && col.in != size_ && col.in != 0;
    if (turned) at = across;
    Axis row{1, 0, 0};
    if (at >= 0) {
      if (turned && axes[static_cast<size_t>(at)].in < 0) flip(axes[static_cast<size_t>(at)]);
      row = axes[static_cast<size_t>(at)];
    }
    spreads_ = col.in == 0 && col.out == size_;
    in_row_ = row.in, out_row_ = row.out, in_col_ = col.in, out_col_ = col.out;
    const int64_t most = std::max<int64_t>(kBlockBytes / size_, 1);
    n_cols_ = col.n, n_rows_ = row.n;
    cols_ = std::min(col.n, turned ? std::max(kTurnedBytes / size_, kTurnedElements / row.n) : most);
    rows_ = std::max<int64_t>(1, std::min(row.n, most / cols_));
    if (turned && 2 * desc.outs[0].size() * static_cast<int64_t>(itemsize(desc.outs[0].dtype)) > kCacheBytes &&
        col.n <= kWayBytes / std::min(kWayBytes, std::max<int64_t>(col.in & -col.in, 64)) * kWays)
      cols_ = col.n, rows_ = std::min<int64_t>(row.n, 16 / size_);
    if (rows_ > 64 && rows_ < row.n) rows_ &= ~int64_t{63};
    // The order of blocks: that of the output.
    const Axis row_blocks{(row.n + rows_ - 1) / rows_, row.in * rows_, row.out * rows_};
    const Axis col_blocks{(col.n + cols_ - 1) / cols_, col.in * cols_, col.out * cols_};
    loops_ = std::move(axes);
    if (at >= 0) {
      row_loop_ = static_cast<size_t>(at);
      loops_[row_loop_] = row_blocks;
    } else {
      row_loop_ = loops_.size();
      loops_.push_back(row_blocks);
    }
    col_loop_ = loops_.size();
    loops_.push_back(col_blocks);
    blocks_ = 1;
    for (const Axis& a : loops_) blocks_ *= a.n;
    blocks_per_task_ = std::max<int64_t>(1, most / (rows_ * cols_));
    tasks_ = (blocks_ + blocks_per_task_ - 1) / blocks_per_task_;
  }

  void run_task(int64_t task) const {
    const int64_t first = task * blocks_per_task_, end = std::min(blocks_, first + blocks_per_task_);
    const size_t n = loops_.size();
    const char* in = static_cast<const char*>(desc.ins[0].data) + in_offset_;
    char* out = static_cast<char*>(desc.outs[0].data) + out_offset_;
    int64_t at[kMaxDims + 2];
    int64_t t = first;
    for (size_t i = n; i-- > 0; t /= loops_[i].n) {
      at[i] = t % loops_[i].n;
      in += at[i] * loops_[i].in, out += at[i] * loops_[i].out;
    }
    for (int64_t b = first; b < end; b++) {
      const int64_t rows = std::min(rows_, n_rows_ - at[row_loop_] * rows_), cols = std::min(cols_, n_cols_ - at[col_loop_] * cols_);
      if (spreads_) spread_(size_, rows, cols, in, in_row_, 0, out, out_row_, out_col_);
      else PTRT_PLAIN::move2d(size_, rows, cols, in, in_row_, in_col_, out, out_row_, out_col_);
      for (size_t i = n; i-- > 0;) {
        const Axis& a = loops_[i];
        in += a.in, out += a.out;
        if (++at[i] < a.n) break;
        in -= a.n * a.in, out -= a.n * a.out;
        at[i] = 0;
      }
    }
  }

  const Move2d spread_;
  int size_;
  bool spreads_ = false;
  int64_t in_offset_ = 0, out_offset_ = 0, in_row_ = 0, out_row_ = 0, in_col_ = 0, out_col_ = 0;
  std::vector<Axis> loops_;
  size_t row_loop_ = 0, col_loop_ = 0;
  int64_t n_rows_ = 0, n_cols_ = 0, rows_ = 0, cols_ = 0, blocks_ = 0, blocks_per_task_ = 0, tasks_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_move(LaunchDesc desc, Move2d spread) { return std::make_unique<Move>(std::move(desc), spread); }

}  // namespace ptrt::PTRT_LEVEL
