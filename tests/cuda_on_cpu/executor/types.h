// PTX's fundamental types and the state spaces, as the parser and the decoder name them.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace exe {

using sv = std::string_view;

enum class Ty : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kF16x2,
  kBF16,
  kBF16x2,
  kTF32,
  kF32,
  kF64,
  kE4M3,
  kE5M2,
  kE4M3x2,
  kE5M2x2,
  kU16x2,
  kS16x2,
  kF32x2,
};

// Bytes of one value of the type; a predicate is kept as one bit per lane and counts as 0.
inline int size_of(Ty t) {
  switch (t) {
    case Ty::kB8:
    case Ty::kU8:
    case Ty::kS8:
    case Ty::kE4M3:
    case Ty::kE5M2: return 1;
    case Ty::kB16:
    case Ty::kU16:
    case Ty::kS16:
    case Ty::kF16:
    case Ty::kBF16:
    case Ty::kE4M3x2:
    case Ty::kE5M2x2: return 2;
    case Ty::kB32:
    case Ty::kU32:
    case Ty::kS32:
    case Ty::kF32:
    case Ty::kTF32:
    case Ty::kF16x2:
    case Ty::kBF16x2:
    case Ty::kU16x2:
    case Ty::kS16x2: return 4;
    case Ty::kB64:
    case Ty::kU64:
    case Ty::kS64:
    case Ty::kF32x2:
    case Ty::kF64: return 8;
    case Ty::kB128: return 16;
    default: return 0;
  }
}
inline bool is_signed(Ty t) { return t == Ty::kS8 || t == Ty::kS16 || t == Ty::kS32 || t == Ty::kS64; }
inline bool is_unsigned(Ty t) { return t >= Ty::kU8 && t <= Ty::kU64; }
inline bool is_int(Ty t) { return is_signed(t) || is_unsigned(t); }
inline bool is_bits(Ty t) { return t >= Ty::kB8 && t <= Ty::kB128; }
Ty parse_type(sv s);  // kNone: no type of this name

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };

// Addresses. Global and constant memory is host memory; the other windows lie where no host pointer can: a state-space address is 32 bits
// wide and starts at its base, the generic address of the same byte carries the window's tag in its top byte.
constexpr uint64_t kSharedBase = 0x01000000, kParamBase = 0x02000000, kLocalBase = 0x03000000;
constexpr uint64_t kSharedTag = 1ull << 56, kLocalTag = 2ull << 56, kParamTag = 3ull << 56, kTagMask = 0xffull << 56;

// PTX this executor does not know: names the instruction and its line.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a kernel did wrong; `kind` is one of the names the Python side exports.
struct Fault : std::runtime_error {
  Fault(const char* kind_, const std::string& message) : std::runtime_error(message), kind(kind_) {}
  const char* kind;
};

}  // namespace exe
