#include "core/decode.h"

#include <algorithm>

#include "core/vocabulary.h"

namespace ptrt {

namespace {
constexpr int64_t kMaxSize =
    int64_t{1} << 52;  // elements of a view, and the largest stride: no product of either with an item size overflows
constexpr int64_t kMaxBytes = int64_t{1} << 56;

void check(bool ok, const char* what) {
  if (!ok) throw KernelError(std::string("program encoding: ") + what);
}

bool same_shape(const Operand& a, const Operand& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; i++)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

// Shapes that the vocabulary ties to ins[0], checked here for the kernels that are given rows of any rank.
void check_rows(const LaunchDesc& d) {
  const Operand& x = d.ins.empty() ? d.outs[0] : d.ins[0];
  switch (static_cast<KernelId>(d.kernel)) {
    case KernelId::scan:
    case KernelId::softmax: check(same_shape(x, d.outs[0]), "the output must have the input's shape"); break;
    case KernelId::normalize:
      for (const Operand& o : d.ins) check(!o.present() || same_shape(x, o), "scale and bias must have the input's shape");
      check(same_shape(x, d.outs[0]), "the output must have the input's shape");
      [[fallthrough]];
    case KernelId::reduce:
    case KernelId::arg_reduce:
      for (const Operand& o : d.outs) {
        check(!o.present() || o.ndim == x.ndim, "an output must have the input's rank");
        for (int i = 0; i < o.ndim; i++) check(o.shape[i] == x.shape[i] || o.shape[i] == 1, "an output must have the input's sizes or 1");
      }
      break;
    default: break;
  }
}
}  // namespace

Decoder::Decoder(const int64_t* code, size_t words, const std::vector<Const>& consts) : p_(code), end_(code + words), consts_(consts) {
  const int64_t n_buffers = count(int64_t{1} << 26, 3);
  n_launches_ = count(int64_t{1} << 26, 10);
  check(n_buffers <= (end_ - p_) / 3, "truncated");
  buffers_.resize(static_cast<size_t>(n_buffers));
  for (auto& b : buffers_) {
    b.kind = word();
    b.value = word();
    b.nbytes = word();
    check(b.kind >= kArenaBuffer && b.kind <= kOutputBuffer, "bad buffer kind");
    check(b.value >= 0 && b.nbytes >= 0 && b.nbytes <= kMaxBytes, "bad buffer");
    if (b.kind == kArenaBuffer) check(b.value <= kMaxBytes && b.value % 64 == 0, "bad arena offset");
    else check(b.value < (int64_t{1} << 26), "bad buffer number");
    if (b.kind == kConstBuffer)
      check(b.value < static_cast<int64_t>(consts.size()) && consts[static_cast<size_t>(b.value)].nbytes >= b.nbytes, "bad constant");
  }
  strands_.resize(static_cast<size_t>(count(n_launches_, 3)));
  int64_t at = 0;
  for (Strands& s : strands_) {
    s.ends.resize(static_cast<size_t>(count(n_launches_, 1)));
    const auto launch = [&] {
      const int64_t n = word();
      check(n >= at && n <= n_launches_, "bad strands");
      at = n;
      return static_cast<size_t>(n);
    };
    s.begin = launch();
    for (size_t& end : s.ends) end = launch();
    check(!s.ends.empty(), "bad strands");
  }
}

int64_t Decoder::word() {
  check(p_ != end_, "truncated");
  return *p_++;
}

int64_t Decoder::count(int64_t limit, int64_t words_each) {
  const int64_t n = word();
  check(n >= 0 && n <= limit && n <= (end_ - p_) / words_each, "count out of range");
  return n;
}

DType Decoder::dtype() {
  const int64_t t = word();
  check(t > 0 && t <= static_cast<int64_t>(DType::i2) && t != 8, "bad dtype");
  return static_cast<DType>(t);
}

Operand Decoder::operand(OperandRef& ref, bool may_be_hollow, bool written) {
  Operand o;
  const int64_t b = word();
  if (b == -1) return o;
  const int64_t* const at = p_;
  const int64_t offset = word();
  o.dtype = dtype();
  o.ndim = static_cast<int32_t>(count(kMaxDims, 2));
  int64_t size = 1;
  bool empty = false;
  for (int i = 0; i < o.ndim; i++) {
    const int64_t n = o.shape[i] = word();
    check(n >= 0 && n <= kMaxSize / size, "shape out of range");
    if (n == 0) empty = true;
    else size *= n;
  }
  for (int i = 0; i < o.ndim; i++) {
    const int64_t s = word();
    check(s >= -kMaxSize && s <= kMaxSize, "stride out of range");
    check(!written || s != 0 || o.shape[i] < 2 || empty, "an output is broadcast");
    o.strides[i] = o.shape[i] == 1 ? 0 : s;
  }
  if (b == -2) {  // stands for a prologue
    check(may_be_hollow, "an operand has no memory");
    return o;
  }
  check(b >= 0 && b < static_cast<int64_t>(buffers_.size()), "bad buffer index");
  const BufferInfo& buf = buffers_[static_cast<size_t>(b)];
  check(!written || buf.kind == kArenaBuffer || buf.kind == kOutputBuffer, "an output is in memory that must not be written");
  const auto item = static_cast<int64_t>(itemsize(o.dtype));
  ref.buffer = b;
  ref.word = static_cast<size_t>(at - launch_);
  if (!empty) {  // the view must lie inside its buffer: the last line of defence for everything planned above
    check(offset >= -kMaxSize && offset <= kMaxSize, "a view reaches outside its buffer");
    __int128 lo = offset, hi = offset;
    for (int i = 0; i < o.ndim; i++) {
      const __int128 reach = static_cast<__int128>(o.shape[i] - 1) * o.strides[i];
      (reach < 0 ? lo : hi) += reach;
    }
    check(lo >= 0 && (hi + 1) * item <= buf.nbytes, "a view reaches outside its buffer");
    ref.byte_offset = offset * item;
    ref.item = item;
    ref.low = static_cast<int64_t>(lo - offset) * item;
    ref.high = static_cast<int64_t>(hi - offset + 1) * item;
  }
  if (buf.kind == kConstBuffer) {
    const Const& c = consts_[static_cast<size_t>(buf.value)];
    o.data = static_cast<char*>(c.data) + ref.byte_offset;
    o.flags = Operand::kConst | (c.mapped ? Operand::kMapped : 0);
  }
  return o;
}

Expr Decoder::program(int64_t n, size_t loads, int ndim, bool acc) {
  Expr e(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; k++) {
    Instr& ins = e[static_cast<size_t>(k)];
    const int64_t op = word();
    check(op >= 0 && op < kNumOps, "bad opcode");
    ins.op = static_cast<int32_t>(op);
    ins.dtype = dtype();
    for (int32_t& a : ins.args) {
      const int64_t v = word();
      check(v >= -1 && v < (1 << 16), "bad argument");
      a = static_cast<int32_t>(v);
    }
    ins.i = word();
    for (int j = 0; j < kOpArity[op]; j++) check(ins.args[j] >= 0 && ins.args[j] < k, "bad register");
    switch (static_cast<Op>(op)) {
      case Op::load_: check(ins.args[0] >= 0 && static_cast<size_t>(ins.args[0]) < loads, "bad operand number"); break;
      case Op::iota_: check(ins.args[0] >= 0 && ins.args[0] < ndim, "bad axis"); break;
      case Op::acc_: check(acc, "only an epilogue has a result to continue from"); break;
      default: break;
    }
  }
  return e;
}

bool Decoder::skip(const std::vector<int64_t>& words, std::vector<OperandRef>& refs, bool constants_move) {
  if (static_cast<std::ptrdiff_t>(words.size()) > end_ - p_) return false;
  size_t at = 0;
  const auto same_until = [&](size_t stop) { return std::equal(words.data() + at, words.data() + stop, p_ + at); };
  for (const OperandRef& ref : refs) {
    if (ref.buffer < 0) continue;
    if (!same_until(ref.word)) return false;
    at = ref.word;
    if (words[at] == p_[at]) continue;
    if (buffers_[static_cast<size_t>(ref.buffer)].kind == kConstBuffer && !constants_move) return false;
    at++;
  }
  if (!same_until(words.size())) return false;
  for (OperandRef& ref : refs) {
    if (!ref.item) continue;
    const int64_t offset = p_[ref.word];
    check(offset >= -kMaxSize && offset <= kMaxSize, "a view reaches outside its buffer");
    ref.byte_offset = offset * ref.item;
    const int64_t nbytes = buffers_[static_cast<size_t>(ref.buffer)].nbytes;
    check(ref.byte_offset + ref.low >= 0 && ref.byte_offset + ref.high <= nbytes, "a view reaches outside its buffer");
  }
  p_ += words.size();
  return true;
}

LaunchDesc Decoder::next(std::vector<OperandRef>& refs) {
  refs.clear();
  launch_ = p_;
  LaunchDesc d;
  d.kernel = static_cast<int32_t>(word());
  check(d.kernel >= 0 && d.kernel < kNumKernels, "bad kernel");
  const KernelShape& shape = kKernelShapes[d.kernel];
  const int64_t n_in = count(4096, 1), n_out = count(16, 1), n_pro = count(4096, 1), n_epi = count(4096, 1), n_par = count(1 << 20, 1),
                n_body = count(1 << 16, 6), n_pe = count(1 << 16, 6), n_ee = count(1 << 16, 6);
  check((n_body > 0) == (d.kernel == static_cast<int32_t>(KernelId::map)), "only map has a body");
  check(shape.prologue || (n_pe == 0 && n_pro == 0), "this kernel has no prologue");
  check(shape.epilogue || (n_ee == 0 && n_epi == 0), "this kernel has no epilogue");
  check((n_pe > 0 || n_pro == 0) && (n_ee > 0 || n_epi == 0), "operands of a program that is not there");
  check((shape.any_ins || n_in <= shape.ins) && n_out <= shape.outs, "too many operands");
  d.acc_dtype = dtype();
  auto read = [&](std::vector<Operand>& v, int64_t n, size_t full, uint32_t required, bool hollow, bool written) {
    for (int64_t k = 0; k < n; k++) {
      refs.emplace_back();
      v.push_back(operand(refs.back(), hollow && k == 0, written));
    }
    if (v.size() < full) {
      refs.resize(refs.size() + full - v.size());
      v.resize(full);
    }
    for (size_t k = 0; k < v.size(); k++)
      check(v[k].present() || !(k >= 32 ? required == ~uint32_t{0} : required >> k & 1), "a required operand is missing");
  };
  const uint32_t all = ~uint32_t{0};
  read(d.ins, n_in, shape.any_ins ? 0 : static_cast<size_t>(shape.ins), shape.any_ins ? all : shape.required_ins, n_pe > 0, false);
  read(d.outs, n_out, static_cast<size_t>(shape.outs), shape.required_outs, false, true);
  read(d.pro_ins, n_pro, 0, all, false, false);
  read(d.epi_ins, n_epi, 0, all, false, false);
  check(n_par <= end_ - p_, "truncated");
  d.param_words.assign(p_, p_ + n_par);
  p_ += n_par;
  check(n_ee > 0 || !d.outs[0].present() || d.acc_dtype == d.outs[0].dtype, "the result's dtype differs from the output's");
  check_rows(d);
  for (const Operand& o : d.pro_ins) check(same_shape(o, d.ins[0]), "a prologue operand has the wrong shape");
  for (const Operand& o : d.epi_ins) check(same_shape(o, d.outs[0]), "an epilogue operand has the wrong shape");
  d.body = program(n_body, d.ins.size(), d.outs[0].ndim, false);
  d.prologue = program(n_pe, d.pro_ins.size(), d.ins.empty() ? 0 : d.ins[0].ndim, false);
  d.epilogue = program(n_ee, d.epi_ins.size(), d.outs[0].ndim, true);
  return d;
}

}  // namespace ptrt
