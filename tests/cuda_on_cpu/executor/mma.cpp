// mma.sync, ldmatrix, stmatrix and movmatrix.
//
// Fragment layouts, PTX ISA 8.x, "Matrix Fragments for mma.m16n8k16 with floating point type" and its sisters for m16n8k4, m16n8k8,
// m16n8k32, m8n8k4 (.f64) and m8n8k16. With g = laneid / 4, t = laneid % 4, and p values in each register (f64, tf32: 1; 16 bits: 2; 8
// bits: 4), the tables of all these sections say the same:
//
//   A, 16 rows   value e of register r:  row g + 8 (r & 1),   column 4p (r >> 1) + p t + e
//   A, 8 rows    value e of register r:  row g,               column 4p r + p t + e
//   B, 8 columns value e of register r:  row 4p r + p t + e,  column g
//   C and D      value i of the lane:    row g + 8 (i >> 1),  column 2t + (i & 1)      (16-bit values: two to a register)
#include <algorithm>

#include "access.h"
#include "decode.h"
#include "numeric.h"
#include "warp_ops.h"

namespace exe {
namespace {

struct MmaOp {
  int m, n, k;
  Ty a, b, c, d;
  bool saturate = false;
  int na, nb, nc, nd;  // registers
  int32_t ra[8], rb[4], rc[4], rd[4];
};

int per_register(Ty t) { return size_of(t) == 8 ? 1 : 4 / size_of(t); }

const float* eight_bit_table(Ty t) {
  static float tables[2][256];
  static const bool filled = [] {
    for (int k = 0; k < 256; ++k) tables[0][k] = from_e4m3(static_cast<uint8_t>(k)), tables[1][k] = from_e5m2(static_cast<uint8_t>(k));
    return true;
  }();
  (void)filled;
  return tables[t == Ty::kE5M2];
}

// The values of one register of all lanes, lane after lane.
template <class T>
void values_of(Ty t, const char* r, T* out) {
  switch (t) {
    case Ty::kF16:
      for (int k = 0; k < 64; ++k) out[k] = static_cast<T>(widen(reinterpret_cast<const f16*>(r)[k]));
      break;
    case Ty::kBF16:
      for (int k = 0; k < 64; ++k) out[k] = static_cast<T>(widen(reinterpret_cast<const bf16*>(r)[k]));
      break;
    case Ty::kTF32:  // the low 13 bits are not looked at
      for (int k = 0; k < 32; ++k) out[k] = static_cast<T>(bits<float>(reinterpret_cast<const uint32_t*>(r)[k] & 0xffffe000u));
      break;
    case Ty::kF64:
      for (int k = 0; k < 32; ++k) out[k] = static_cast<T>(reinterpret_cast<const double*>(r)[k]);
      break;
    case Ty::kS8:
      for (int k = 0; k < 128; ++k) out[k] = static_cast<T>(reinterpret_cast<const int8_t*>(r)[k]);
      break;
    case Ty::kU8:
      for (int k = 0; k < 128; ++k) out[k] = static_cast<T>(reinterpret_cast<const uint8_t*>(r)[k]);
      break;
    default: {
      const float* table = eight_bit_table(t);
      for (int k = 0; k < 128; ++k) out[k] = static_cast<T>(table[reinterpret_cast<const uint8_t*>(r)[k]]);
    }
  }
}
// a[row][k] and b[k][column], by the tables above: what the four lanes of a group hold of one register is contiguous in a row of A, or in a
// column of B.
template <class T>
void read_ab(Warp& w, const MmaOp& o, T* a, T* b) {
  alignas(64) T v[128];
  const int n = 4 * per_register(o.a);
  for (int r = 0; r < o.na; ++r) {
    values_of(o.a, row<char>(w, o.ra[r]), v);
    const int row0 = o.m == 16 ? 8 * (r & 1) : 0, col0 = n * (o.m == 16 ? r >> 1 : r);
    for (int g = 0; g < 8; ++g) memcpy(a + (row0 + g) * o.k + col0, v + g * n, n * sizeof(T));
  }
  for (int r = 0; r < o.nb; ++r) {
    values_of(o.b, row<char>(w, o.rb[r]), v);
    for (int j = 0; j < n; ++j)
      for (int g = 0; g < 8; ++g) b[(n * r + j) * 8 + g] = v[g * n + j];
  }
}

typedef double Row8 __attribute__((vector_size(64)));

// acc[m] += a[m][k] b[k], eight columns at once. Products of everything but .f64 are exact, so that these are fused multiply-adds.
template <int kRows>
void multiply(const double* a, const double* b, double* acc, int depth) {
  Row8 s[kRows];
  memcpy(s, acc, sizeof s);
  for (int k = 0; k < depth; ++k) {
    Row8 x;
    memcpy(&x, b + 8 * k, sizeof x);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) s[m] += x * a[m * depth + k];
  }
  memcpy(acc, s, sizeof s);
}
void multiply_f64(const MmaOp& o, const double* a, const double* b, double* acc) {
  for (int m = 0; m < o.m; ++m)
    for (int k = 0; k < o.k; ++k)
      for (int n = 0; n < 8; ++n) acc[m * 8 + n] = __builtin_fma(a[m * o.k + k], b[k * 8 + n], acc[m * 8 + n]);
}

// Value x of lane l of C and D, row l / 4 + 8 (x >> 1), column 2 (l % 4) + (x & 1), is value 2 l + (x & 1) of half x >> 1 of the matrix.
// Products are exact and summed in double precision; the sum is rounded once.
const Ins* op_mma_real(Warp& w, const Ins* i) {
  if (!whole_warp(w, i)) return nullptr;
  const MmaOp& o = *i->as<MmaOp>();
  alignas(64) double a[16 * 32], b[32 * 8], acc[16 * 8];
  read_ab(w, o, a, b);
  for (int half = 0; half < o.m / 8; ++half) {
    double* c = acc + 64 * half;
    if (o.c == Ty::kF16) {
      const f16* r = row<f16>(w, o.rc[half]);
      for (int k = 0; k < 64; ++k) c[k] = widen(r[k]);
    } else if (o.c == Ty::kF64) {
      const double *x = row<double>(w, o.rc[2 * half]), *y = row<double>(w, o.rc[2 * half + 1]);
      for (int l = 0; l < 32; ++l) c[2 * l] = x[l], c[2 * l + 1] = y[l];
    } else {
      const float *x = row<float>(w, o.rc[2 * half]), *y = row<float>(w, o.rc[2 * half + 1]);
      for (int l = 0; l < 32; ++l) c[2 * l] = x[l], c[2 * l + 1] = y[l];
    }
  }
  if (o.a == Ty::kF64) multiply_f64(o, a, b, acc);
  else if (o.m == 16) multiply<16>(a, b, acc, o.k);
  else multiply<8>(a, b, acc, o.k);
  for (int half = 0; half < o.m / 8; ++half) {
    const double* c = acc + 64 * half;
    if (o.d == Ty::kF16) {
      f16* r = row<f16>(w, o.rd[half]);
      for (int k = 0; k < 64; ++k) r[k] = narrow<f16>(c[k]);
    } else if (o.d == Ty::kF64) {
      double *x = row<double>(w, o.rd[2 * half]), *y = row<double>(w, o.rd[2 * half + 1]);
      for (int l = 0; l < 32; ++l) x[l] = canon(c[2 * l]), y[l] = canon(c[2 * l + 1]);
    } else {
      float *x = row<float>(w, o.rd[2 * half]), *y = row<float>(w, o.rd[2 * half + 1]);
      for (int l = 0; l < 32; ++l) x[l] = canon(static_cast<float>(c[2 * l])), y[l] = canon(static_cast<float>(c[2 * l + 1]));
    }
  }
  return i + 1;
}
const Ins* op_mma_int(Warp& w, const Ins* i) {
  if (!whole_warp(w, i)) return nullptr;
  const MmaOp& o = *i->as<MmaOp>();
  alignas(64) int32_t a[16 * 32], b[32 * 8], s[16 * 8] = {};
  read_ab(w, o, a, b);
  for (int m = 0; m < o.m; ++m)
    for (int k = 0; k < o.k; ++k)
      for (int n = 0; n < 8; ++n) s[m * 8 + n] += a[m * o.k + k] * b[k * 8 + n];
  for (int x = 0; x < o.m / 4; ++x) {
    const int32_t *c = row<int32_t>(w, o.rc[x]), *p = s + 64 * (x >> 1) + (x & 1);
    int32_t* d = row<int32_t>(w, o.rd[x]);
    for (int l = 0; l < 32; ++l) {
      const int64_t v = int64_t(c[l]) + p[2 * l];
      d[l] = static_cast<int32_t>(o.saturate ? std::clamp<int64_t>(v, INT32_MIN, INT32_MAX) : v);
    }
  }
  return i + 1;
}

void decode_mma(Decoder& d) {
  if (!d.take("sync") || !d.take("aligned")) d.unsupported();
  auto& room = d.program().tables.emplace_back((sizeof(MmaOp) + 7) / 8);
  MmaOp& o = *new (room.data()) MmaOp();
  const sv shape = d.take_any({"m8n8k4", "m8n8k16", "m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"});
  if (shape.empty()) d.unsupported("shape");
  o.m = shape[1] == '8' ? 8 : 16, o.n = 8;
  o.k = atoi(std::string(shape.substr(shape.find('k') + 1)).c_str());
  if (!d.take("row") || !d.take("col")) d.unsupported("layout");
  o.saturate = d.take("satfinite");
  d.take("kind::f8f6f4");
  o.d = d.take_type(), o.a = d.take_type(), o.b = d.take_type(), o.c = d.take_type();
  const bool integer = is_int(o.a);
  const int size = size_of(o.a);
  // The shapes the ISA has for each type.
  static const std::unordered_map<sv, std::vector<sv>> shapes = {{"16", {"m16n8k8", "m16n8k16"}},
                                                                 {"tf32", {"m16n8k4", "m16n8k8"}},
                                                                 {"f64", {"m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"}},
                                                                 {"int8", {"m8n8k16", "m16n8k16", "m16n8k32"}},
                                                                 {"fp8", {"m16n8k16", "m16n8k32"}}};
  const bool half = o.a == Ty::kF16 || o.a == Ty::kBF16, eight = o.a == Ty::kE4M3 || o.a == Ty::kE5M2;
  const sv key = half ? "16" : o.a == Ty::kTF32 ? "tf32" : o.a == Ty::kF64 ? "f64" : integer && size == 1 ? "int8" : eight ? "fp8" : "";
  auto it = shapes.find(key);
  if (it == shapes.end() || std::find(it->second.begin(), it->second.end(), shape) == it->second.end()) d.unsupported("shape and type");
  const bool pair_ok = integer ? size_of(o.b) == 1 && is_int(o.b) : eight ? (o.b == Ty::kE4M3 || o.b == Ty::kE5M2) : o.a == o.b;
  const bool acc_ok = integer           ? o.c == Ty::kS32 && o.d == Ty::kS32
                      : o.a == Ty::kF64 ? o.c == Ty::kF64 && o.d == Ty::kF64
                                        : (o.c == Ty::kF32 || (o.c == Ty::kF16 && (o.a == Ty::kF16 || eight))) &&
                                              (o.d == Ty::kF32 || (o.d == Ty::kF16 && (o.a == Ty::kF16 || eight)));
  if (!pair_ok || !acc_ok) d.unsupported("types");
  const int bytes = size == 8 ? 8 : 4, p = per_register(o.a);
  o.na = o.m * o.k / 32 / p, o.nb = o.n * o.k / 32 / p;
  o.nc = o.m * o.n / 32 / (o.c == Ty::kF16 ? 2 : 1), o.nd = o.m * o.n / 32 / (o.d == Ty::kF16 ? 2 : 1);
  auto rows = [&](int k, int n, int32_t* out, int width, bool source) {
    const Operand& v = d.op(k);
    const size_t have = v.kind == Operand::kVector ? v.elems.size() : 1;
    if (have != static_cast<size_t>(n)) d.unsupported("number of registers");
    for (int e = 0; e < n; ++e) {
      const Operand& x = v.kind == Operand::kVector ? v.elems[e] : v;
      out[e] = source ? d.src(x, width) : d.dst(x, width);
    }
  };
  const int acc = o.c == Ty::kF64 ? 8 : 4;
  rows(1, o.na, o.ra, bytes, true), rows(2, o.nb, o.rb, bytes, true), rows(3, o.nc, o.rc, acc, true), rows(0, o.nd, o.rd, acc, false);
  d.emit(integer ? op_mma_int : op_mma_real, 0, 0, 0, 0, reinterpret_cast<int64_t>(&o));
  d.count(integer            ? kMmaInt8
          : eight            ? kMmaFp8
          : o.a == Ty::kF16  ? kMmaF16
          : o.a == Ty::kBF16 ? kMmaBF16
          : o.a == Ty::kTF32 ? kMmaTF32
                             : kMmaF64,
          2 * o.m * o.n * o.k / 32);
}

// ldmatrix: lane 8j + i addresses row i of matrix j; its register j gets row lane / 4, columns 2 (lane % 4) and the next (.trans: of the
// transposed matrix). "Warp-level matrix load instruction: ldmatrix".
template <bool kStore>
const Ins* op_matrix(Warp& w, const Ins* i) {
  if (!whole_warp(w, i)) return nullptr;
  const MemOp& m = *i->as<MemOp>();
  alignas(64) uint64_t a[32];
  addresses(w, m, a);
  const int n = m.count;
  const uint32_t mask = n == 4 ? ~0u : (1u << 8 * n) - 1;
  Resolved h;
  resolve(w, i, m.space, m.site, Request{a, mask, 16, kStore ? Access::kStore : Access::kLoad, false}, h);
  const bool trans = m.sign;
  for (int j = 0; j < n; ++j) {
    uint16_t x[64];
    if (kStore) {
      const uint16_t* s = row<uint16_t>(w, m.regs[j]);
      for (int l = 0; l < 32; ++l)
        for (int e = 0; e < 2; ++e) x[trans ? (2 * (l % 4) + e) * 8 + l / 4 : l / 4 * 8 + 2 * (l % 4) + e] = s[2 * l + e];
      for (int r = 0; r < 8; ++r) memcpy(reinterpret_cast<void*>(h.host[8 * j + r]), x + 8 * r, 16);
    } else {
      for (int r = 0; r < 8; ++r) memcpy(x + 8 * r, reinterpret_cast<const void*>(h.host[8 * j + r]), 16);
      uint16_t* d = row<uint16_t>(w, m.regs[j]);
      for (int l = 0; l < 32; ++l)
        for (int e = 0; e < 2; ++e) d[2 * l + e] = x[trans ? (2 * (l % 4) + e) * 8 + l / 4 : l / 4 * 8 + 2 * (l % 4) + e];
    }
  }
  return i + 1;
}
void decode_matrix(Decoder& d) {
  const bool store = d.stmt().op == "stmatrix";
  if (!d.take("sync") || !d.take("aligned") || !d.take("m8n8")) d.unsupported();
  const sv num = d.take_any({"x1", "x2", "x4"});
  MemOp& m = *d.mem_op();
  m.sign = d.take("trans");
  m.space = take_space(d);
  if (!d.take("b16") || num.empty()) d.unsupported();
  m.count = static_cast<uint8_t>(num[1] - '0');
  const Operand &v = d.op(store ? 1 : 0), &at = d.op(store ? 0 : 1);
  decode_address(d, at, m);
  for (int k = 0; k < m.count; ++k) {
    const Operand& e = v.kind == Operand::kVector ? v.elems.at(k) : v;
    m.regs[k] = store ? d.src(e, 4) : d.dst(e, 4);
  }
  note_access(d, m.space, 16);
  d.emit(store ? op_matrix<true> : op_matrix<false>, 0, 0, 0, 0, reinterpret_cast<int64_t>(&m));
  d.count(kLoadStore);
}
const Ins* op_movmatrix(Warp& w, const Ins* i) {
  if (!whole_warp(w, i)) return nullptr;
  const uint16_t* s = row<uint16_t>(w, i->a);
  uint16_t t[64];
  for (int l = 0; l < 32; ++l)
    for (int e = 0; e < 2; ++e) t[2 * l + e] = s[2 * ((2 * (l % 4) + e) * 4 + l / 4 / 2) + (l / 4 & 1)];
  memcpy(row<uint16_t>(w, i->d), t, sizeof t);
  return i + 1;
}
void decode_movmatrix(Decoder& d) {
  for (sv s : {"sync", "aligned", "m8n8", "trans", "b16"}) d.take(s);
  const int32_t a = d.src(1, 4);
  d.emit(op_movmatrix, d.dst(0, 4), a);
  d.count(kShuffle);
}

}  // namespace

void mma_rules(Rules& r) {
  r.any["mma"] = decode_mma;
  r.any["ldmatrix"] = r.any["stmatrix"] = decode_matrix;
  r.any["movmatrix"] = decode_movmatrix;
}

}  // namespace exe
