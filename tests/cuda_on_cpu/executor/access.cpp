#include "access.h"

#include <algorithm>

#include "decode.h"

namespace exe {
namespace {

Pattern pattern_of(const Request& r) {
  if (r.mask != ~0u) return Pattern::kScattered;
  const uint64_t first = r.address[0], step = r.address[1] - first;
  if (step != 0 && step != static_cast<uint64_t>(r.bytes)) return Pattern::kScattered;
  uint64_t bad = 0;
  for (int l = 0; l < 32; ++l) bad |= r.address[l] ^ (first + static_cast<uint64_t>(l) * step);
  return bad ? Pattern::kScattered : step ? Pattern::kRow : Pattern::kUniform;
}

void count_global(Warp& w, const Request& r, Pattern p) {
  MemoryCounters& c = w.launch->counters;
  const int64_t lanes = __builtin_popcount(r.mask);
  int64_t sectors;
  if (p == Pattern::kRow) sectors = static_cast<int64_t>(((r.address[31] + r.bytes - 1) >> 5) - (r.address[0] >> 5) + 1);
  else if (p == Pattern::kUniform) sectors = static_cast<int64_t>(((r.address[0] + r.bytes - 1) >> 5) - (r.address[0] >> 5) + 1);
  else sectors = sectors_of(r.address, r.mask, r.bytes);
  if (r.kind == Access::kLoad) c.global_load_requests++, c.global_load_sectors += sectors, c.global_load_bytes += lanes * r.bytes;
  else c.global_store_requests++, c.global_store_sectors += sectors, c.global_store_bytes += lanes * r.bytes;
  if (r.kind == Access::kAtomic) c.global_atomics += lanes;
}
void count_shared(Warp& w, const Request& r, Pattern p) {
  MemoryCounters& c = w.launch->counters;
  const int64_t lanes = __builtin_popcount(r.mask);
  int64_t wavefronts = 0, ideal = 0;
  if (w.launch->options.checks) {
    if (p == Pattern::kScattered) wavefronts_of(r.address, r.mask, r.bytes, wavefronts, ideal);
    else wavefronts = ideal = p == Pattern::kRow ? std::max(1, r.bytes / 4) : 1;
  }
  if (r.kind == Access::kLoad)
    c.shared_load_requests++, c.shared_load_wavefronts += wavefronts, c.shared_load_ideal += ideal, c.shared_load_bytes += lanes * r.bytes;
  else
    c.shared_store_requests++, c.shared_store_wavefronts += wavefronts, c.shared_store_ideal += ideal,
        c.shared_store_bytes += lanes * r.bytes;
  if (r.kind == Access::kAtomic) c.shared_atomics += lanes;
}

// For all lanes alike; addresses of the space's own window.
void resolve_window(Warp& w, const Ins* i, Space space, int site, const Request& r, Resolved& out) {
  const bool checks = w.launch->options.checks;
  Launch& l = *w.launch;
  out.pattern = pattern_of(r);
  switch (space) {
    case Space::kShared: {
      if (checks) check_shared(w, i, r);
      count_shared(w, r, out.pattern);
      const uint64_t base = reinterpret_cast<uint64_t>(w.shared);
      for (int k = 0; k < 32; ++k) out.host[k] = base + r.address[k];
      break;
    }
    case Space::kLocal: {
      if (checks) check_window(w, i, r, kLocalBase, l.program->local_bytes, "local memory");
      l.counters.local_requests++, l.counters.local_bytes += int64_t(__builtin_popcount(r.mask)) * r.bytes;
      const uint64_t base = reinterpret_cast<uint64_t>(w.local) - kLocalBase, stride = l.program->local_bytes;
      for (int k = 0; k < 32; ++k) out.host[k] = base + r.address[k] + k * stride;
      out.pattern = Pattern::kScattered;
      break;
    }
    case Space::kParam: {
      if (checks) check_window(w, i, r, kParamBase, l.program->param_bytes, "parameters");
      if (r.kind != Access::kLoad) fault(w, i, kinds::kOutOfBounds, "writes to a parameter", __builtin_ctz(r.mask));
      l.counters.param_requests++;
      const uint64_t base = reinterpret_cast<uint64_t>(w.param);
      for (int k = 0; k < 32; ++k) out.host[k] = base + r.address[k];
      break;
    }
    default:
      if (checks) check_global(w, i, site, r);
      count_global(w, r, out.pattern);
      memcpy(out.host, r.address, sizeof out.host);
  }
}

}  // namespace

void resolve(Warp& w, const Ins* i, Space space, int site, const Request& r, Resolved& out) {
  uint64_t any = 0, all = ~0ull;
  if (space == Space::kParam) {  // a function's parameters lie in local memory
    for (int l = 0; l < 32; ++l) any |= (r.mask >> l & 1) ? r.address[l] : 0;
    return resolve_window(w, i, (any & ~kTagMask) >= kLocalBase ? Space::kLocal : Space::kParam, site, r, out);
  }
  if (space != Space::kGeneric) return resolve_window(w, i, space, site, r, out);
  for (int l = 0; l < 32; ++l) {
    const bool on = r.mask >> l & 1;
    any |= on ? r.address[l] : 0, all &= on ? r.address[l] : ~0ull;
  }
  any &= kTagMask, all &= kTagMask;
  if (any == 0) return resolve_window(w, i, Space::kGlobal, site, r, out);
  // by window
  alignas(64) uint64_t a[32];
  Resolved part;
  for (int l = 0; l < 32; ++l) a[l] = r.address[l] & ~kTagMask;
  for (uint32_t rest = r.mask; rest;) {
    const uint64_t tag = r.address[__builtin_ctz(rest)] & kTagMask;
    Request q = r;
    q.mask = 0;
    for (uint32_t m = rest; m; m &= m - 1)
      if ((r.address[__builtin_ctz(m)] & kTagMask) == tag) q.mask |= m & -m;
    rest &= ~q.mask;
    q.address = a;
    const Space s = tag == 0            ? Space::kGlobal
                    : tag == kSharedTag ? Space::kShared
                    : tag == kLocalTag  ? Space::kLocal
                    : tag == kParamTag  ? Space::kParam
                                        : Space::kGeneric;
    if (s == Space::kGeneric) fault(w, i, kinds::kOutOfBounds, "not an address", __builtin_ctz(q.mask));
    resolve_window(w, i, s, site, q, part);
    for (uint32_t m = q.mask; m; m &= m - 1) out.host[__builtin_ctz(m)] = part.host[__builtin_ctz(m)];
    out.pattern = q.mask == r.mask ? part.pattern : Pattern::kScattered;
  }
}

int sectors_of(const uint64_t* a, uint32_t mask, int bytes) {
  uint64_t seen[128];
  uint8_t used[128] = {};
  int n = 0;
  uint64_t last = UINT64_MAX;
  for (uint32_t m = mask; m; m &= m - 1) {
    const uint64_t at = a[__builtin_ctz(m)];
    for (uint64_t s = at >> 5; s <= (at + bytes - 1) >> 5; ++s) {
      if (s == last) continue;
      last = s;
      uint32_t h = static_cast<uint32_t>((s ^ (s >> 7)) & 127);
      while (used[h] && seen[h] != s) h = (h + 1) & 127;
      if (!used[h]) used[h] = 1, seen[h] = s, ++n;
    }
  }
  return n;
}

namespace {

// Wavefronts of the lanes that are served together: the most different words any bank has to give.
int passes_of(const uint64_t* a, uint32_t mask, int words) {
  uint32_t list[32][32];
  uint8_t n[32] = {};
  int most = 0;
  for (uint32_t m = mask; m; m &= m - 1) {
    for (int k = 0; k < words; ++k) {
      const uint32_t word = static_cast<uint32_t>(a[__builtin_ctz(m)] >> 2) + k, bank = word & 31;
      int j = 0;
      while (j < n[bank] && list[bank][j] != word) ++j;
      if (j == n[bank]) list[bank][n[bank]++] = word, most = std::max<int>(most, n[bank]);
    }
  }
  return most;
}

}  // namespace

void wavefronts_of(const uint64_t* a, uint32_t mask, int bytes, int64_t& wavefronts, int64_t& ideal) {
  // 8-byte accesses take two passes of half a warp, 16-byte ones four of a quarter
  const int passes = bytes <= 4 ? 1 : bytes / 4, lanes = 32 / passes, shift = bytes <= 4 ? 2 : __builtin_ctz(bytes);
  for (int p = 0; p < passes; ++p) {
    const uint32_t part = mask & ((lanes == 32 ? ~0u : (1u << lanes) - 1) << (p * lanes));
    if (!part) continue;
    // in most requests each group of banks serves one address
    uint64_t first[32];
    uint32_t used = 0;
    bool conflict = false;
    for (uint32_t m = part; m; m &= m - 1) {
      const uint64_t unit = a[__builtin_ctz(m)] >> shift;
      const int slot = static_cast<int>(unit & (lanes - 1));
      conflict |= (used >> slot & 1) && first[slot] != unit;
      first[slot] = unit;
      used |= 1u << slot;
    }
    wavefronts += conflict ? passes_of(a, part, std::max(1, bytes / 4)) : 1;
    ++ideal;
  }
}

namespace {

template <int W>
struct UIntOf;
template <>
struct UIntOf<1> {
  using type = uint8_t;
};
template <>
struct UIntOf<2> {
  using type = uint16_t;
};
template <>
struct UIntOf<4> {
  using type = uint32_t;
};
template <>
struct UIntOf<8> {
  using type = uint64_t;
};
template <int W>
using UInt = typename UIntOf<W>::type;

template <class T>
T read(uint64_t host) {
  T t;
  memcpy(&t, reinterpret_cast<const void*>(host), sizeof t);
  return t;
}
template <class T>
void write(uint64_t host, T t) {
  memcpy(reinterpret_cast<void*>(host), &t, sizeof t);
}

// D: the register's type, T: the memory's (its sign extends).
template <class D, class T>
const Ins* op_ld(Warp& w, const Ins* i) {
  const MemOp& m = *i->as<MemOp>();
  alignas(64) uint64_t a[32];
  addresses(w, m, a);
  const Request r{a, w.mask, static_cast<int>(sizeof(T)) * m.count, Access::kLoad, m.strong};
  Resolved h;
  resolve(w, i, m.space, m.site, r, h);
  const int n = m.count;
  if (h.pattern == Pattern::kUniform) {
    for (int k = 0; k < n; ++k) {
      if (m.regs[k] < 0) continue;
      const D v = static_cast<D>(read<T>(h.host[0] + k * sizeof(T)));
      D* d = row<D>(w, m.regs[k]);
      for (int l = 0; l < 32; ++l) d[l] = v;
    }
  } else if (h.pattern == Pattern::kRow) {
    const T* p = reinterpret_cast<const T*>(h.host[0]);
    if (n == 1 && m.regs[0] >= 0) {
      D* d = row<D>(w, m.regs[0]);
      for (int l = 0; l < 32; ++l) d[l] = static_cast<D>(p[l]);
    } else {
      for (int k = 0; k < n; ++k) {
        if (m.regs[k] < 0) continue;
        D* d = row<D>(w, m.regs[k]);
        for (int l = 0; l < 32; ++l) d[l] = static_cast<D>(p[l * n + k]);
      }
    }
  } else if (n > 1 && w.mask == ~0u) {  // lane by lane, then turned around
    alignas(64) T t[32 * 8];
    if (n == 4)
      for (int l = 0; l < 32; ++l) memcpy(t + 4 * l, reinterpret_cast<const void*>(h.host[l]), 4 * sizeof(T));
    else if (n == 2)
      for (int l = 0; l < 32; ++l) memcpy(t + 2 * l, reinterpret_cast<const void*>(h.host[l]), 2 * sizeof(T));
    else
      for (int l = 0; l < 32; ++l) memcpy(t + 8 * l, reinterpret_cast<const void*>(h.host[l]), 8 * sizeof(T));
    auto turn = [&](auto count) {
      for (int k = 0; k < decltype(count)::value; ++k) {
        if (m.regs[k] < 0) continue;
        D* d = row<D>(w, m.regs[k]);
        for (int l = 0; l < 32; ++l) d[l] = static_cast<D>(t[l * decltype(count)::value + k]);
      }
    };
    if (n == 4) turn(std::integral_constant<int, 4>());
    else if (n == 2) turn(std::integral_constant<int, 2>());
    else turn(std::integral_constant<int, 8>());
  } else {
    for (int k = 0; k < n; ++k) {
      if (m.regs[k] < 0) continue;
      D* d = row<D>(w, m.regs[k]);
      if (w.mask == ~0u) {
        for (int l = 0; l < 32; ++l) d[l] = static_cast<D>(read<T>(h.host[l] + k * sizeof(T)));
      } else {
        for (uint32_t x = w.mask; x; x &= x - 1) d[__builtin_ctz(x)] = static_cast<D>(read<T>(h.host[__builtin_ctz(x)] + k * sizeof(T)));
      }
    }
  }
  return i + 1;
}
// A parameter of the kernel at a known place: the same for all lanes. imm: its address
template <class D, class T>
const Ins* op_ld_param(Warp& w, const Ins* i) {
  const D v = static_cast<D>(read<T>(reinterpret_cast<uint64_t>(w.param) + static_cast<uint64_t>(i->imm)));
  w.launch->counters.param_requests++;
  lanes(w, row<D>(w, i->d), [v](D) { return v; }, row<D>(w, i->d));
  return i + 1;
}
template <class S, class T>
const Ins* op_st(Warp& w, const Ins* i) {
  const MemOp& m = *i->as<MemOp>();
  alignas(64) uint64_t a[32];
  addresses(w, m, a);
  const Request r{a, w.mask, static_cast<int>(sizeof(T)) * m.count, Access::kStore, m.strong};
  Resolved h;
  resolve(w, i, m.space, m.site, r, h);
  const int n = m.count;
  if (h.pattern == Pattern::kRow) {
    T* p = reinterpret_cast<T*>(h.host[0]);
    for (int k = 0; k < n; ++k) {
      const S* s = row<S>(w, m.regs[k]);
      for (int l = 0; l < 32; ++l) p[l * n + k] = static_cast<T>(s[l]);
    }
    return i + 1;
  }
  for (int x = 0; x < 32; ++x) {
    const int l = w.launch->lane_order[x];
    if (!(w.mask >> l & 1)) continue;
    for (int k = 0; k < n; ++k) write<T>(h.host[l] + k * sizeof(T), static_cast<T>(row<S>(w, m.regs[k])[l]));
  }
  return i + 1;
}

template <class D>
Fn pick_ld(int width, bool sign, bool param) {
  switch (width) {
    case 1:
      return param  ? (sign ? Fn(op_ld_param<D, int8_t>) : Fn(op_ld_param<D, uint8_t>))
             : sign ? Fn(op_ld<D, int8_t>)
                    : Fn(op_ld<D, uint8_t>);
    case 2:
      return param  ? (sign ? Fn(op_ld_param<D, int16_t>) : Fn(op_ld_param<D, uint16_t>))
             : sign ? Fn(op_ld<D, int16_t>)
                    : Fn(op_ld<D, uint16_t>);
    case 4:
      return param  ? (sign ? Fn(op_ld_param<D, int32_t>) : Fn(op_ld_param<D, uint32_t>))
             : sign ? Fn(op_ld<D, int32_t>)
                    : Fn(op_ld<D, uint32_t>);
    default: return param ? op_ld_param<D, uint64_t> : op_ld<D, uint64_t>;
  }
}
template <class S>
Fn pick_st(int width) {
  return width == 1   ? Fn(op_st<S, uint8_t>)
         : width == 2 ? Fn(op_st<S, uint16_t>)
         : width == 4 ? Fn(op_st<S, uint32_t>)
                      : Fn(op_st<S, uint64_t>);
}

void decode_access(Decoder& d) {
  const bool load = d.stmt().op[0] == 'l';
  MemOp& m = *d.mem_op();
  const sv order = d.take_any({"volatile", "relaxed", "acquire", "release", "mmio"});
  m.strong = !order.empty();
  d.program().may_spin |= load && m.strong;
  d.take("weak");
  d.take_any({"cta", "gpu", "sys", "cluster"});
  m.space = take_space(d);
  d.take("nc"), d.take("uni");
  for (sv s : {"ca", "cg", "cs", "lu", "cv", "wb", "wt"}) d.take(s);
  const sv vec = d.take_any({"v2", "v4", "v8"});
  m.count = vec.empty() ? 1 : static_cast<uint8_t>(vec[1] - '0');
  const Ty t = d.take_type();
  for (sv s : d.stmt().mods)  // cache hints: L1::no_allocate, L2::128B, L2::cache_hint, level::eviction_priority
    if (s.find("::") != sv::npos) d.take(s);
  const Operand &value = d.op(load ? 0 : 1), &address = d.op(load ? 1 : 0);
  decode_address(d, address, m);
  if (m.space == Space::kShared) m.strong = m.strong && order != "volatile";  // volatile orders nothing there
  m.width = static_cast<uint8_t>(size_of(t));
  m.sign = is_signed(t);
  if (m.width == 0 || m.width > 8) d.unsupported("type");
  if (m.count > 1 && (value.kind != Operand::kVector || value.elems.size() != m.count)) d.unsupported("vector");
  m.reg_width = m.width == 1 ? 2 : m.width;
  auto element = [&](int k) -> const Operand& { return value.kind == Operand::kVector ? value.elems[k] : value; };
  for (int k = 0; k < m.count; ++k)
    if (element(k).kind == Operand::kReg) m.reg_width = std::max<uint8_t>(m.width, static_cast<uint8_t>(size_of(d.reg_type(element(k)))));
  for (int k = 0; k < m.count; ++k) {
    const Operand& e = element(k);
    m.regs[k] = e.kind == Operand::kSink  ? -1
                : load                    ? d.dst(e, m.reg_width)
                : e.kind == Operand::kReg ? d.src(e, m.reg_width)
                                          : d.src(e, t == Ty::kF32 || t == Ty::kF64 ? t
                                                     : m.reg_width == 8             ? Ty::kB64
                                                     : m.reg_width == 4             ? Ty::kB32
                                                                                    : Ty::kB16);
  }
  note_access(d, m.space, m.width * m.count);
  auto pick_load = [&](bool param) {
    return m.reg_width == 2   ? pick_ld<uint16_t>(m.width, m.sign, param)
           : m.reg_width == 4 ? pick_ld<uint32_t>(m.width, m.sign, param)
                              : pick_ld<uint64_t>(m.width, m.sign, param);
  };
  if (load && m.space == Space::kParam && address.var >= 0 && address.reg < 0) {
    const uint64_t at = d.address_of(address.var) + static_cast<uint64_t>(m.offset);
    const int bytes = m.width * m.count;
    if (at >= kParamBase && at - kParamBase + bytes <= static_cast<uint64_t>(d.program().param_bytes) && at % bytes == 0) {
      for (int k = 0; k < m.count; ++k)
        if (m.regs[k] >= 0) d.emit(pick_load(true), m.regs[k], 0, 0, 0, static_cast<int64_t>(at) + k * m.width);
      return d.count(kLoadStore);
    }
  }
  Fn fn = load               ? pick_load(false)
          : m.reg_width == 2 ? pick_st<uint16_t>(m.width)
          : m.reg_width == 4 ? pick_st<uint32_t>(m.width)
                             : pick_st<uint64_t>(m.width);
  if (order == "release") emit_fence(d);
  d.emit(fn, 0, 0, 0, 0, reinterpret_cast<int64_t>(&m));
  d.count(kLoadStore);
  if (order == "acquire") emit_fence(d);
}

const Ins* op_zero(Warp& w, const Ins* i) {
  lanes(w, row<uint64_t>(w, i->d), [](uint64_t) { return uint64_t(0); }, row<uint64_t>(w, i->d));
  return i + 1;
}
void decode_policy(Decoder& d) {  // createpolicy: of caches
  while (!d.take_next().empty()) {
  }
  d.emit(op_zero, d.dst(0, 8));
}

}  // namespace

Space take_space(Decoder& d) {
  const sv s = d.take_any({"global", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry", "param::func", "const"});
  if (s.empty()) return Space::kGeneric;
  if (s[0] == 's') return Space::kShared;
  return s == "global" ? Space::kGlobal : s == "local" ? Space::kLocal : s == "const" ? Space::kConst : Space::kParam;
}

void decode_address(Decoder& d, const Operand& o, MemOp& m) {
  if (o.kind != Operand::kAddress) d.unsupported("address");
  if (o.reg >= 0) {
    Operand r;
    r.kind = Operand::kReg, r.reg = o.reg;
    const int n = size_of(d.reg_type(r));
    if (n != 4 && n != 8) d.unsupported("address register");
    m.wide_address = n == 8;
    m.address = d.reg_row(o.reg);
    m.offset = o.bits;
    return;
  }
  m.wide_address = true;
  m.address = d.constant(o.var >= 0 ? d.address_of(o.var) : 0, 8);
  m.offset = o.bits;
  if (o.var >= 0 && m.space == Space::kParam) m.space = d.space_of(o.var);
}

void note_access(Decoder& d, Space space, int bytes) {
  Program& p = d.program();
  if (space == Space::kShared || space == Space::kGeneric) p.shared_granule = std::min(p.shared_granule, bytes);
  if (space == Space::kGlobal || space == Space::kGeneric || space == Space::kConst) p.global_granule = std::min(p.global_granule, bytes);
}

void memory_rules(Rules& r) {
  r.any["ld"] = r.any["ldu"] = r.any["st"] = decode_access;
  r.any["createpolicy"] = decode_policy;
}

}  // namespace exe
