#include "cpu/reduce_block.h"

#include "core/vocabulary.h"
#include "cpu/half.h"

namespace ptrt::PTRT_LEVEL {

namespace {

constexpr size_t kMaxPrologueOperands = 64;

template <class T>
struct Raw {
  using type = T;
  static T get(T x) { return x; }
  template <class C>
  static T put(C x) {
    return static_cast<T>(x);
  }
};
struct F16 {
  using type = uint16_t;
  static float get(uint16_t x) { return f16_to_f32(x); }
  template <class C>
  static uint16_t put(C x) {
    return f32_to_f16(static_cast<float>(x));
  }
};
struct BF16 {
  using type = uint16_t;
  static float get(uint16_t x) { return bf16_to_f32(x); }
  template <class C>
  static uint16_t put(C x) {
    return f32_to_bf16(static_cast<float>(x));
  }
};
struct Bool {
  using type = uint8_t;
  static int get(uint8_t x) { return x != 0; }
  template <class C>
  static uint8_t put(C x) {
    return x != 0;
  }
};

template <class S, class C>
void in_loop(const void* src, int64_t stride, int64_t n, C* dst) {
  auto* p = static_cast<const typename S::type*>(src);
  if (stride == 1 && std::is_same<S, Raw<C>>::value) __builtin_memcpy(dst, p, static_cast<size_t>(n) * sizeof(C));
  else if (stride == 1)
    for (int64_t i = 0; i < n; i++) dst[i] = static_cast<C>(S::get(p[i]));
  else
    for (int64_t i = 0; i < n; i++) dst[i] = static_cast<C>(S::get(p[i * stride]));
}
template <class S, class C>
void out_loop(const C* src, int64_t n, void* dst, int64_t stride) {
  auto* p = static_cast<typename S::type*>(dst);
  if (stride == 1 && std::is_same<S, Raw<C>>::value) __builtin_memcpy(p, src, static_cast<size_t>(n) * sizeof(C));
  else if (stride == 1)
    for (int64_t i = 0; i < n; i++) p[i] = S::put(src[i]);
  else
    for (int64_t i = 0; i < n; i++) p[i * stride] = S::put(src[i]);
}

#if defined(__F16C__)
int64_t f16_in(const uint16_t* p, int64_t n, float* dst) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i))));
#endif
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i))));
  return i;
}
int64_t f16_out(const float* src, int64_t n, uint16_t* p) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i), _mm512_cvtps_ph(_mm512_loadu_ps(src + i), 0));
#endif
  for (; i + 8 <= n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(p + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), 0));
  return i;
}
#else
int64_t f16_in(const uint16_t*, int64_t, float*) { return 0; }
int64_t f16_out(const float*, int64_t, uint16_t*) { return 0; }
#endif

template <class C>
void f16_rows_in(const void* src, int64_t stride, int64_t n, C* dst) {
  int64_t done = 0;
  if constexpr (std::is_same<C, float>::value)
    if (stride == 1) done = f16_in(static_cast<const uint16_t*>(src), n, dst);
  in_loop<F16>(static_cast<const uint16_t*>(src) + done * stride, stride, n - done, dst + done);
}
template <class C>
void f16_rows_out(const C* src, int64_t n, void* dst, int64_t stride) {
  int64_t done = 0;
  if constexpr (std::is_same<C, float>::value)
    if (stride == 1) done = f16_out(src, n, static_cast<uint16_t*>(dst));
  out_loop<F16>(src + done, n - done, static_cast<uint16_t*>(dst) + done * stride, stride);
}

}  // namespace

bool convertible(DType t) {
  switch (t) {
    case DType::f32:
    case DType::f64:
    case DType::f16:
    case DType::bf16:
    case DType::i8:
    case DType::u8:
    case DType::i16:
    case DType::u16:
    case DType::i32:
    case DType::u32:
    case DType::i64:
    case DType::u64:
    case DType::boolean: return true;
    default: return false;
  }
}

template <class C>
void convert_in(DType from, const void* src, int64_t stride, int64_t n, C* dst) {
  switch (from) {
    case DType::f32: return in_loop<Raw<float>>(src, stride, n, dst);
    case DType::f64: return in_loop<Raw<double>>(src, stride, n, dst);
    case DType::f16: return f16_rows_in(src, stride, n, dst);
    case DType::bf16: return in_loop<BF16>(src, stride, n, dst);
    case DType::i8: return in_loop<Raw<int8_t>>(src, stride, n, dst);
    case DType::u8: return in_loop<Raw<uint8_t>>(src, stride, n, dst);
    case DType::i16: return in_loop<Raw<int16_t>>(src, stride, n, dst);
    case DType::u16: return in_loop<Raw<uint16_t>>(src, stride, n, dst);
    case DType::i32: return in_loop<Raw<int32_t>>(src, stride, n, dst);
    case DType::u32: return in_loop<Raw<uint32_t>>(src, stride, n, dst);
    case DType::i64: return in_loop<Raw<int64_t>>(src, stride, n, dst);
    case DType::u64: return in_loop<Raw<uint64_t>>(src, stride, n, dst);
    case DType::boolean: return in_loop<Bool>(src, stride, n, dst);
    default: throw KernelError("unsupported element type");
  }
}

template <class C>
void convert_out(DType to, const C* src, int64_t n, void* dst, int64_t stride) {
  switch (to) {
    case DType::f32: return out_loop<Raw<float>>(src, n, dst, stride);
    case DType::f64: return out_loop<Raw<double>>(src, n, dst, stride);
    case DType::f16: return f16_rows_out(src, n, dst, stride);
    case DType::bf16: return out_loop<BF16>(src, n, dst, stride);
    case DType::i8: return out_loop<Raw<int8_t>>(src, n, dst, stride);
    case DType::u8: return out_loop<Raw<uint8_t>>(src, n, dst, stride);
    case DType::i16: return out_loop<Raw<int16_t>>(src, n, dst, stride);
    case DType::u16: return out_loop<Raw<uint16_t>>(src, n, dst, stride);
    case DType::i32: return out_loop<Raw<int32_t>>(src, n, dst, stride);
    case DType::u32: return out_loop<Raw<uint32_t>>(src, n, dst, stride);
    case DType::i64: return out_loop<Raw<int64_t>>(src, n, dst, stride);
    case DType::u64: return out_loop<Raw<uint64_t>>(src, n, dst, stride);
    case DType::boolean: return out_loop<Bool>(src, n, dst, stride);
    default: throw KernelError("unsupported element type");
  }
}

namespace {
bool has_iota(const Expr& e) {
  for (const Instr& i : e)
    if (i.op == static_cast<int32_t>(Op::iota_)) return true;
  return false;
}

std::vector<Operand*> operands(LaunchDesc& d) {
  std::vector<Operand*> v;
  for (auto* list : {&d.ins, &d.outs, &d.pro_ins, &d.epi_ins})
    for (auto& o : *list)
      if (o.present()) v.push_back(&o);
  return v;
}

// Broadcast axes (stride 0) count as outermost.
int64_t magnitude(int64_t s) { return s < 0 ? -s : s == 0 ? INT64_MAX : s; }
}  // namespace

std::vector<int> canonicalise(LaunchDesc& d, std::vector<int> labels) {
  const Operand x = d.ins[0];
  auto all = operands(d);
  std::vector<std::vector<int>> groups;  // axes of the result, each a run of axes of the launch, outermost first
  const bool fixed = has_iota(d.prologue) || has_iota(d.epilogue);
  std::vector<int> order;
  for (int a = 0; a < x.ndim; a++)
    if (fixed || x.shape[a] != 1) order.push_back(a);
  if (!fixed) {
    const Operand* lead = &d.ins[0];
    if (!d.prologue.empty()) {
      auto rank = [](const Operand& o) {
        int n = 0;
        for (int a = 0; a < o.ndim; a++) n += o.strides[a] != 0;
        return n;
      };
      for (auto& o : d.pro_ins)
        if (lead == &d.ins[0] || rank(o) > rank(*lead)) lead = &o;
    }
    // Insertion sort: stable, so equal strides keep the logical order.
    for (size_t i = 1; i < order.size(); i++)
      for (size_t j = i; j > 0 && magnitude(lead->strides[order[j - 1]]) < magnitude(lead->strides[order[j]]); j--)
        std::swap(order[j - 1], order[j]);
  }
  for (int a : order) {
    bool merge = !fixed && !groups.empty() && labels[static_cast<size_t>(groups.back().back())] == labels[static_cast<size_t>(a)];
    if (merge) {
      const int p = groups.back().back();
      for (auto* o : all) merge = merge && o->strides[p] == o->strides[a] * x.shape[a];
    }
    if (merge) groups.back().push_back(a);
    else groups.push_back({a});
  }
  std::vector<int> result;
  bool seen[2] = {};
  for (auto& g : groups) {
    result.push_back(labels[static_cast<size_t>(g[0])]);
    seen[result.back()] = true;
  }
  for (int label = 0; label < 2; label++)
    if (!seen[label]) result.push_back(label);
  if (result.size() > static_cast<size_t>(kMaxDims)) throw KernelError("too many axes");
  for (auto* o : all) {
    Operand n = *o;
    n.ndim = static_cast<int32_t>(result.size());
    for (size_t i = 0; i < result.size(); i++) {
      n.shape[i] = 1;
      n.strides[i] = 0;
      if (i >= groups.size()) continue;
      for (int a : groups[i]) n.shape[i] *= o->shape[a];
      n.strides[i] = o->strides[groups[i].back()];
    }
    *o = n;
  }
  return result;
}

template <class C>
Source<C>::Source(const LaunchDesc& d) : program_(!d.prologue.empty()), result_(d.ins[0].dtype) {
  if (program_) {
    if (d.pro_ins.size() > kMaxPrologueOperands) throw KernelError("too many prologue operands");
    std::vector<DType> types;
    for (auto& o : d.pro_ins) types.push_back(o.dtype);
    vm_.emplace_back(d.prologue, types, DType::none);
    result_ = vm_[0].result();
  }
  if (!convertible(result_)) throw KernelError("unsupported element type");
}

template <class C>
size_t Source<C>::scratch_bytes(int64_t elements) const {
  size_t n = align64(static_cast<size_t>(elements) * sizeof(C));
  if (program_) n += align64(vm_[0].scratch_bytes()) + align64(static_cast<size_t>(elements) * itemsize(result_));
  return n;
}

template <class C>
void Source<C>::fill(const LaunchDesc& d, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, C* out,
                     char* scratch) const {
  if (!program_) {
    const Operand& x = d.ins[0];
    const char* p = element(x, index);
    const int64_t step = row_axis < 0 ? 0 : x.strides[row_axis] * static_cast<int64_t>(itemsize(x.dtype));
    for (int64_t r = 0; r < rows; r++) convert_in(x.dtype, p + r * step, x.strides[col_axis], cols, out + r * cols);
    return;
  }
  Block in[kMaxPrologueOperands];
  const size_t n = d.pro_ins.size();
  for (size_t k = 0; k < n; k++) {
    const Operand& o = d.pro_ins[k];
    in[k] = {element(o, index), row_axis < 0 ? 0 : o.strides[row_axis], o.strides[col_axis]};
  }
  Iota iota[kMaxDims];
  for (int a = 0; a < d.ins[0].ndim; a++) iota[a] = {index[a], a == row_axis, a == col_axis};
  char* vm_scratch = scratch;
  void* raw = out;
  if (result_ != dtype_of<C>()) raw = scratch + align64(vm_[0].scratch_bytes());
  vm_[0].run(rows, cols, in, {}, {raw, cols, 1}, vm_scratch, iota);
  if (raw != out) convert_in(result_, raw, 1, rows * cols, out);
}

template <class C>
const C* Source<C>::block(const LaunchDesc& d, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, char* scratch,
                          int64_t* row_stride) const {
  if (direct(d, col_axis)) {
    *row_stride = row_axis < 0 ? 0 : d.ins[0].strides[row_axis];
    return reinterpret_cast<const C*>(element(d.ins[0], index));
  }
  *row_stride = cols;
  auto* out = reinterpret_cast<C*>(scratch);
  fill(d, index, row_axis, rows, col_axis, cols, out, scratch + align64(static_cast<size_t>(rows * cols) * sizeof(C)));
  return out;
}

template <class C>
Sink<C>::Sink(const LaunchDesc& d) : epilogue_(d) {
  if (!convertible(d.acc_dtype)) throw KernelError("unsupported element type");
}

template <class C>
size_t Sink<C>::scratch_bytes(int64_t elements) const {
  if (epilogue_.empty()) return 0;
  return align64(epilogue_.scratch_bytes()) + align64(static_cast<size_t>(elements) * 8);
}

template <class C>
void Sink<C>::store(const LaunchDesc& d, const int64_t* index, int row_axis, int64_t rows, int col_axis, int64_t cols, const C* data,
                    int64_t row_stride, char* scratch) const {
  const Operand& y = d.outs[0];
  if (epilogue_.empty()) {
    char* p = element(y, index);
    const int64_t step = row_axis < 0 ? 0 : y.strides[row_axis] * static_cast<int64_t>(itemsize(y.dtype));
    for (int64_t r = 0; r < rows; r++) convert_out(y.dtype, data + r * row_stride, cols, p + r * step, y.strides[col_axis]);
    return;
  }
  Block acc{const_cast<C*>(data), row_stride, 1};
  if (d.acc_dtype != dtype_of<C>()) {
    char* converted = scratch + align64(epilogue_.scratch_bytes());
    const auto item = static_cast<int64_t>(itemsize(d.acc_dtype));
    for (int64_t r = 0; r < rows; r++) convert_out(d.acc_dtype, data + r * row_stride, cols, converted + r * cols * item, 1);
    acc = {converted, cols, 1};
  }
  epilogue_.apply(d, index, row_axis, rows, col_axis, cols, acc, scratch);
}

#define PTRT_INSTANTIATE(C)                                               \
  template void convert_in<C>(DType, const void*, int64_t, int64_t, C*);  \
  template void convert_out<C>(DType, const C*, int64_t, void*, int64_t); \
  template class Source<C>;                                               \
  template class Sink<C>;
PTRT_INSTANTIATE(float)
PTRT_INSTANTIATE(double)
PTRT_INSTANTIATE(int32_t)
PTRT_INSTANTIATE(int64_t)
PTRT_INSTANTIATE(uint64_t)

}  // namespace ptrt::PTRT_LEVEL
