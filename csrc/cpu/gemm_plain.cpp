// gemm for every combination that has no fast path: 16-bit integers (which wrap), and anything but bytes with zero points.
#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/half.h"
#include "cpu/vm.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// Integers are multiplied and added as uint64: the low bits are those of the wrapped result in any narrower type.
struct AsInt {
  using Acc = uint64_t;
  static Acc get(const Operand& o, int64_t i) {
    switch (o.dtype) {
      case DType::u8: return o.as<const uint8_t>()[i];
      case DType::i8: return static_cast<Acc>(static_cast<int64_t>(o.as<const int8_t>()[i]));
      case DType::u16: return o.as<const uint16_t>()[i];
      case DType::i16: return static_cast<Acc>(static_cast<int64_t>(o.as<const int16_t>()[i]));
      case DType::u32: return o.as<const uint32_t>()[i];
      case DType::i32: return static_cast<Acc>(static_cast<int64_t>(o.as<const int32_t>()[i]));
      default: return o.as<const uint64_t>()[i];
    }
  }
  static void put(void* p, DType t, int64_t i, Acc v, double) {
    switch (itemsize(t)) {
      case 1: static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(v); break;
      case 2: static_cast<uint16_t*>(p)[i] = static_cast<uint16_t>(v); break;
      case 4: static_cast<uint32_t*>(p)[i] = static_cast<uint32_t>(v); break;
      default: static_cast<uint64_t*>(p)[i] = v;
    }
  }
};

struct AsDouble {
  using Acc = double;
  static Acc get(const Operand& o, int64_t i) {
    if (o.dtype == DType::f64) return o.as<const double>()[i];
    if (o.dtype == DType::f32) return o.as<const float>()[i];
    return half_to_float(o.dtype, o.as<const uint16_t>()[i]);
  }
  static void put(void* p, DType t, int64_t i, Acc v, double alpha) {
    v *= alpha;
    if (t == DType::f64) static_cast<double*>(p)[i] = v;
    else if (t == DType::f32) static_cast<float*>(p)[i] = static_cast<float>(v);
    else static_cast<uint16_t*>(p)[i] = float_to_half(t, static_cast<float>(v));
  }
};

template <class Type>
class PlainGemm final : public Kernel {
 public:
  PlainGemm(LaunchDesc d, const GemmShape& shape) : Kernel(std::move(d)), s_(shape) {
    if (!desc.epilogue.empty()) program_.push_back(Epilogue(desc));
    acc_ = desc.epilogue.empty() ? desc.outs[0].dtype : desc.acc_dtype;
  }
  size_t thread_scratch_bytes() const override { return program_.empty() ? 0 : row_bytes() + program_[0].scratch_bytes(); }
  PTRT_COLD std::string describe() const override { return "plain loops"; }

  void run(const RunContext& ctx) override {
    ctx.parallel(s_.batches * s_.M, [&](int64_t t, int worker) { row(t / s_.M, t % s_.M, ctx.thread_scratch(worker)); });
  }

 private:
  size_t row_bytes() const { return (checked_bytes(1, 1, s_.N, 8) + 63) / 64 * 64; }
  int64_t stride(const Operand& o, int axis) const { return o.shape[axis] == 1 ? 0 : o.strides[axis]; }

  void row(int64_t batch, int64_t m, char* scratch) const {
    using Acc = typename Type::Acc;
    const Operand &a = desc.ins[static_cast<size_t>(s_.ia)], &b = desc.ins[static_cast<size_t>(s_.ib)];
    const Operand *az = optional_input(desc, s_.ia + 2), *bz = optional_input(desc, s_.ib + 2);
    int64_t a0 = batch_offset(s_, batch, s_.as) + m * s_.am, b0 = batch_offset(s_, batch, s_.bs);
    Acc a_zero{};
    if (az) a_zero = Type::get(*az, zero_offset(*az, batch) + m * stride(*az, s_.nb));
    const int64_t bz0 = bz ? zero_offset(*bz, batch) : 0, bzn = bz ? stride(*bz, s_.nb + 1) : 0;
    const Operand& y = desc.outs[0];
    const int64_t y0 = batch_offset(s_, batch, s_.ys) + m * s_.ym;
    for (int64_t n = 0; n < s_.N; n++) {
      const Acc b_zero = bz ? Type::get(*bz, bz0 + n * bzn) : Acc{};
      Acc sum{};
      for (int64_t k = 0; k < s_.K; k++)
        sum += (Type::get(a, a0 + k * s_.ak) - a_zero) * (Type::get(b, b0 + k * s_.bk + n * s_.bn) - b_zero);
      if (program_.empty()) Type::put(y.data, acc_, y0 + n * s_.yn, sum, s_.alpha);
      else Type::put(scratch, acc_, n, sum, s_.alpha);
    }
    if (program_.empty()) return;
    int64_t index[kMaxDims] = {};
    batch_index(s_, batch, index);
    index[s_.nb] = m;
    program_[0].apply(desc, index, -1, 1, s_.nb + 1, s_.N, Block{scratch, s_.N, 1}, scratch + row_bytes());
  }

  int64_t zero_offset(const Operand& o, int64_t batch) const {
    int64_t strides[kMaxDims];
    for (int d = 0; d < s_.nb; d++) strides[d] = stride(o, d);
    return batch_offset(s_, batch, strides);
  }

  GemmShape s_;
  std::vector<Epilogue> program_;  // zero or one
  DType acc_;
};

}  // namespace

std::unique_ptr<Kernel> make_gemm_plain(LaunchDesc desc, const GemmShape& s, BindContext&) {
  switch (desc.ins[0].dtype) {
    case DType::f64:
    case DType::f32:
    case DType::f16:
    case DType::bf16: return std::make_unique<PlainGemm<AsDouble>>(std::move(desc), s);
    case DType::u8:
    case DType::i8:
    case DType::u16:
    case DType::i16:
    case DType::u32:
    case DType::i32:
    case DType::u64:
    case DType::i64: return std::make_unique<PlainGemm<AsInt>>(std::move(desc), s);
    default: throw KernelError("gemm: dtype not supported");
  }
}

}  // namespace ptrt::PTRT_LEVEL
