#include "cpu/byte_table.h"

#include <cstring>

#include "core/launch.h"
#include "cpu/simd.h"

// With byte permutes (AVX512_VBMI, which is not part of any level and asked for at run time), 64 bytes are looked up at once: each permute
// chooses among 128 entries that lie in two registers.
#if defined(__AVX512BW__) && defined(__GNUC__)
#define PTRT_BYTE_PERMUTES __attribute__((target("avx512vbmi")))
#endif

namespace ptrt::PTRT_LEVEL {
namespace {

template <class T>
void plain(const uint8_t* entries, int64_t rows, int64_t cols, const uint8_t* in, int64_t in_row, void* to, int64_t out_row) {
  T* out = static_cast<T*>(to);
  for (int64_t r = 0; r < rows; r++, in += in_row, out += out_row)
    for (int64_t c = 0; c < cols; c++) std::memcpy(out + c, entries + in[c] * sizeof(T), sizeof(T));
}

#if defined(PTRT_BYTE_PERMUTES)
struct Plane {
  __m512i part[4];
};
PTRT_BYTE_PERMUTES inline Plane load_plane(const uint8_t* p) {
  return {{_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64), _mm512_loadu_si512(p + 128), _mm512_loadu_si512(p + 192)}};
}
PTRT_BYTE_PERMUTES inline __m512i chosen(const Plane& t, __m512i index) {
  const __m512i low = _mm512_permutex2var_epi8(t.part[0], index, t.part[1]), high = _mm512_permutex2var_epi8(t.part[2], index, t.part[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
}
inline uint64_t first_of_64(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

PTRT_BYTE_PERMUTES void permuted_bytes(const uint8_t* entries, int64_t rows, int64_t cols, const uint8_t* in, int64_t in_row, uint8_t* out,
                                       int64_t out_row) {
  const Plane t = load_plane(entries);
  for (int64_t r = 0; r < rows; r++, in += in_row, out += out_row) {
    int64_t c = 0;
    for (; c + 64 <= cols; c += 64) _mm512_storeu_si512(out + c, chosen(t, _mm512_loadu_si512(in + c)));
    for (; c + 16 <= cols; c += 16) {
      const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + c));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + c), _mm512_castsi512_si128(chosen(t, _mm512_castsi128_si512(some))));
    }
    if (c < cols) {
      const auto mask = first_of_64(cols - c);
      _mm512_mask_storeu_epi8(out + c, mask, chosen(t, _mm512_maskz_loadu_epi8(mask, in + c)));
    }
  }
}

PTRT_BYTE_PERMUTES void permuted_words(const uint8_t* planes, int64_t rows, int64_t cols, const uint8_t* in, int64_t in_row, uint32_t* out,
                                       int64_t out_row) {
  const Plane t0 = load_plane(planes), t1 = load_plane(planes + 256), t2 = load_plane(planes + 512), t3 = load_plane(planes + 768);
  // Interleaving works within quarters of a register: with the bytes of vector k as the k-th four bytes of every quarter, it leaves the
  // vectors whole.
  const __m512i turned = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int64_t r = 0; r < rows; r++, in += in_row, out += out_row)
    for (int64_t c = 0; c < cols; c += 64) {
      const int64_t n = cols - c;
      const __m512i index =
          _mm512_permutexvar_epi32(turned, n >= 64 ? _mm512_loadu_si512(in + c) : _mm512_maskz_loadu_epi8(first_of_64(n), in + c));
      const __m512i b0 = chosen(t0, index), b1 = chosen(t1, index), b2 = chosen(t2, index), b3 = chosen(t3, index);
      const __m512i low01 = _mm512_unpacklo_epi8(b0, b1), high01 = _mm512_unpackhi_epi8(b0, b1);
      const __m512i low23 = _mm512_unpacklo_epi8(b2, b3), high23 = _mm512_unpackhi_epi8(b2, b3);
      const __m512i words[4] = {_mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                                _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
      if (n >= 64) {
        for (int k = 0; k < 4; k++) _mm512_storeu_si512(out + c + 16 * k, words[k]);
        continue;
      }
      for (int k = 0; k < 4 && 16 * k < n; k++)
        _mm512_mask_storeu_epi32(out + c + 16 * k, static_cast<__mmask16>(first_of_64(n - 16 * k)), words[k]);
    }
}
#endif

}  // namespace

ByteTable::ByteTable(const void* entries, int size) : entries_(256 * static_cast<size_t>(size)), size_(size) {
  std::memcpy(entries_.data(), entries, entries_.size());
  if (size != 4) return;
  planes_.resize(entries_.size());
  for (size_t i = 0; i < entries_.size(); i++) planes_[i % 4 * 256 + i / 4] = entries_[i];
}

void ByteTable::look_up(int64_t rows, int64_t cols, const void* in, int64_t in_row, void* out, int64_t out_row) const {
  const auto* bytes = static_cast<const uint8_t*>(in);
#if defined(PTRT_BYTE_PERMUTES)
  constexpr int64_t kFewColumns = 8;  // are looked up one by one
  const bool permutes = cols >= kFewColumns && cpu_has_byte_permutes();
  if (permutes && size_ == 1) return permuted_bytes(entries_.data(), rows, cols, bytes, in_row, static_cast<uint8_t*>(out), out_row);
  if (permutes && size_ == 4) return permuted_words(planes_.data(), rows, cols, bytes, in_row, static_cast<uint32_t*>(out), out_row);
#endif
  switch (size_) {
    case 1: return plain<uint8_t>(entries_.data(), rows, cols, bytes, in_row, out, out_row);
    case 2: return plain<uint16_t>(entries_.data(), rows, cols, bytes, in_row, out, out_row);
    case 4: return plain<uint32_t>(entries_.data(), rows, cols, bytes, in_row, out, out_row);
    default: return plain<uint64_t>(entries_.data(), rows, cols, bytes, in_row, out, out_row);
  }
}

}  // namespace ptrt::PTRT_LEVEL
