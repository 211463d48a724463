// cp.async: copies from global to shared memory that land when they are waited for, or at once.
#include <algorithm>

#include "access.h"
#include "decode.h"

namespace exe {
namespace {

void land(Warp& w, const AsyncCopy& c, int lane) {
  uint8_t* d = reinterpret_cast<uint8_t*>(w.shared) + c.dst[lane];
  if (c.valid[lane]) memcpy(d, reinterpret_cast<const void*>(c.src[lane]), c.valid[lane]);
  memset(d + c.valid[lane], 0, c.bytes - c.valid[lane]);
}

// d: row of the shared addresses, imm: MemOp of the source; its regs: 0: shared address row, 1: row of the source size (-1: all),
// 2: predicate to ignore the source (-1: none), 3: whether the shared address is wide
const Ins* op_copy(Warp& w, const Ins* i) {
  const MemOp& m = *i->as<MemOp>();
  AsyncCopy c;
  c.mask = w.mask;
  c.bytes = m.width;
  c.ins = i;
  alignas(64) uint64_t src[32], dst[32];
  addresses(w, m, src);
  MemOp to = m;
  to.address = m.regs[0], to.wide_address = m.regs[3], to.offset = m.regs[4];
  addresses(w, to, dst);
  uint32_t reads = 0;
  for (uint32_t x = w.mask; x; x &= x - 1) {
    const int l = __builtin_ctz(x);
    uint32_t n = m.regs[1] >= 0 ? row<uint32_t>(w, m.regs[1])[l] : m.width;
    if (m.regs[2] >= 0 && (pred(w, m.regs[2]) >> l & 1)) n = 0;
    if (n > m.width) fault(w, i, kinds::kOutOfBounds, "source size of " + std::to_string(n), l);
    c.valid[l] = static_cast<uint8_t>(n);
    c.dst[l] = dst[l];
    c.group[l] = w.committed[l];
    if (n) reads |= 1u << l;
  }
  Resolved h;
  const bool checks = w.launch->options.checks;
  if (reads) {
    const bool whole = std::all_of(c.valid, c.valid + 32, [&, l = 0](uint8_t n) mutable { return !(reads >> l++ & 1) || n == m.width; });
    const uint32_t mask = w.mask;
    if (whole) {
      w.mask = reads;
      resolve(w, i, m.space, m.site, Request{src, reads, m.width, Access::kLoad, false}, h);
    } else {
      // partial sizes: byte by byte for the checks
      memcpy(h.host, src, sizeof src);
      for (uint32_t x = checks ? reads : 0; x; x &= x - 1) {
        const int l = __builtin_ctz(x);
        if (src[l] % m.width) fault(w, i, kinds::kMisaligned, "source of cp.async", l);
        uint64_t a[32] = {};
        for (int k = 0; k < c.valid[l]; ++k) {
          a[l] = src[l] + k;
          check_global(w, i, m.site, Request{a, 1u << l, 1, Access::kLoad, false});
        }
      }
    }
    w.mask = mask;
    memcpy(c.src, h.host, sizeof c.src);
  }
  Request r{dst, w.mask, m.width, Access::kStore, false};
  r.async = true;
  resolve(w, i, Space::kShared, 0, r, h);
  if (!w.launch->options.lazy_copies)
    for (uint32_t x = w.mask; x; x &= x - 1) land(w, c, __builtin_ctz(x));
  if (w.launch->options.lazy_copies || checks) w.copies.push_back(c);
  return i + 1;
}
const Ins* op_commit(Warp& w, const Ins* i) {
  for (uint32_t x = w.mask; x; x &= x - 1) w.committed[__builtin_ctz(x)]++;
  return i + 1;
}
// imm: how many of the latest groups may stay pending; -1: wait for all, committed or not
const Ins* op_wait(Warp& w, const Ins* i) {
  const bool lazy = w.launch->options.lazy_copies, checks = w.launch->options.checks;
  for (auto& c : w.copies) {
    uint32_t landed = 0;
    for (uint32_t x = c.mask & w.mask; x; x &= x - 1) {
      const int l = __builtin_ctz(x);
      if (i->imm >= 0 && int64_t(c.group[l]) >= int64_t(w.committed[l]) - i->imm) continue;
      landed |= 1u << l;
      if (lazy) land(w, c, l);
      if (checks) check_landed(w, l, c.dst[l], c.bytes);
    }
    c.mask &= ~landed;
  }
  while (!w.copies.empty() && !w.copies.front().mask) w.copies.pop_front();
  return i + 1;
}

void decode_cp(Decoder& d) {
  if (!d.take("async")) d.unsupported();
  if (d.take("commit_group")) return d.emit(op_commit), d.count(kLoadStore);
  if (d.take("wait_group")) return d.emit(op_wait, 0, 0, 0, 0, d.op(0).bits), d.count(kLoadStore);
  if (d.take("wait_all")) return d.emit(op_wait, 0, 0, 0, 0, -1), d.count(kLoadStore);
  if (d.take_any({"ca", "cg"}).empty()) d.unsupported();
  if (d.take_any({"shared::cluster", "shared::cta", "shared"}).empty()) d.unsupported();
  MemOp& m = *d.mem_op();
  m.space = take_space(d);
  if (m.space != Space::kGlobal) d.unsupported();
  for (sv s : d.stmt().mods)
    if (s.find("::") != sv::npos) d.take(s);
  MemOp to;
  to.space = Space::kShared;
  decode_address(d, d.op(0), to);
  decode_address(d, d.op(1), m);
  m.width = static_cast<uint8_t>(d.op(2).bits);
  if (d.op(2).kind != Operand::kInt || (m.width != 4 && m.width != 8 && m.width != 16)) d.unsupported("size");
  m.regs = {to.address, -1, -1, to.wide_address, static_cast<int32_t>(to.offset)};
  if (d.num_ops() > 3) {
    const Operand& o = d.op(3);
    const bool size = o.kind == Operand::kInt || d.reg_type(o) != Ty::kPred;
    if (size) m.regs[1] = d.src(o, 4);
    else m.regs[2] = d.src_pred(o);
  }
  note_access(d, Space::kShared, m.width);
  note_access(d, Space::kGlobal, m.width);
  d.emit(op_copy, 0, 0, 0, 0, reinterpret_cast<int64_t>(&m));
  d.count(kLoadStore);
}

}  // namespace

void async_rules(Rules& r) { r.any["cp"] = decode_cp; }

}  // namespace exe
