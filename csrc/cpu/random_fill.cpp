// Words of Philox4x32-10 and uniform numbers, of one level.
#include "cpu/random_fill.h"

#include "cpu/kernels.h"
#include "cpu/random_words.h"

namespace ptrt::PTRT_PLAIN {
std::unique_ptr<Kernel> make_random_with(LaunchDesc desc, const RandomFill& fill);
}

namespace ptrt::PTRT_LEVEL {
namespace {

// The product of the low halves of lanes.
PTRT_INLINE vq multiply(vq a, vq b) {
#if defined(__AVX512F__)
  return (vq)_mm512_maskz_mul_epu32((__mmask8)-1, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

// Words of blocks first, first + 1, ... : a block per lane, of whose lanes the low halves count. `count` is rounded up to whole vectors.
void philox(uint64_t seed, uint64_t stream, uint64_t first, int64_t count, uint32_t* words) {
  const vq a = vq{} + 0xD2511F53u, b = vq{} + 0xCD9E8D57u, low = vq{} + 0xffffffffu;
  vq number = vq{} + first, keys[20];
  for (int i = 0; i < WD; i++) number[i] += static_cast<uint64_t>(i);
  for (uint32_t i = 0; i < 10; i++) {
    keys[2 * i] = vq{} + static_cast<uint32_t>(static_cast<uint32_t>(seed) + i * 0x9E3779B9u);
    keys[2 * i + 1] = vq{} + static_cast<uint32_t>(static_cast<uint32_t>(seed >> 32) + i * 0xBB67AE85u);
  }
  for (int64_t block = 0; block < count; block += WD, number += WD) {
    vq c0 = number, c1 = number >> 32, c2 = vq{} + stream, c3 = vq{} + (stream >> 32);
    PTRT_UNROLL for (int round = 0; round < 10; round++) {
      const vq p0 = multiply(c0, a), p1 = multiply(c2, b);
      c0 = (p1 >> 32) ^ c1 ^ keys[2 * round];
      c2 = (p0 >> 32) ^ c3 ^ keys[2 * round + 1];
      c1 = p1;
      c3 = p0;
    }
    const vq front = (c0 & low) | c1 << 32, back = (c2 & low) | c3 << 32;
    const vq first_words = interleave<0>(front, back, Order()), last_words = interleave<WD / 2>(front, back, Order());
    std::memcpy(words + 4 * block, &first_words, sizeof first_words);
    std::memcpy(words + 4 * block + W, &last_words, sizeof last_words);
  }
}

template <bool Wide>
void uniform_numbers(const uint32_t* words, int64_t n, const RandomRange& range, double* numbers) {
  const double size = range.b - range.a;
  const vd below = splat(range.below);
  for (int64_t i = 0; i < n; i += WD) {
    vd x = size * (fractions<Wide>(words + i * (Wide ? 2 : 1), Wide ? 11 : 8) * (Wide ? 0x1p-53 : 0x1p-24));
    PTRT_KEEP(x);  // rounded before the addition, on every machine
    x += range.a;
    store(numbers + i, x >= range.reaching ? below : x);
  }
}
void uniform(const uint32_t* words, int64_t n, bool wide, const RandomRange& range, double* numbers) {
  wide ? uniform_numbers<true>(words, n, range, numbers) : uniform_numbers<false>(words, n, range, numbers);
}

constexpr RandomFill kFill = {philox, uniform};

}  // namespace

std::unique_ptr<Kernel> make_random(LaunchDesc desc, BindContext&) { return ptrt::PTRT_PLAIN::make_random_with(std::move(desc), kFill); }

}  // namespace ptrt::PTRT_LEVEL
