// The input of a block of a convolution as a channels-last copy, converted to what the kernel computes in, with its zero halo.
#include <type_traits>

#include "cpu/bytes.h"
#include "cpu/conv.h"
#include "cpu/half.h"
#include "cpu/move.h"
#include "cpu/transpose.h"

namespace ptrt::PTRT_LEVEL {

namespace {

struct AsF32 {
  typedef float From;
  static float get(float v, int32_t) { return v; }
};
struct AsF64 {
  typedef double From;
  static double get(double v, int32_t) { return v; }
};
struct AsF16 {
  typedef uint16_t From;
  static float get(uint16_t v, int32_t) { return f16_to_f32(v); }
};
struct AsBF16 {
  typedef uint16_t From;
  static float get(uint16_t v, int32_t) { return bf16_to_f32(v); }
};
struct AsU8 {
  typedef uint8_t From;
  static int32_t get(uint8_t v, int32_t zero) { return v - zero; }
};
struct AsI8 {
  typedef int8_t From;
  static int32_t get(int8_t v, int32_t zero) { return v - zero; }
};

// to = from + 128, of n bytes; both may be the same.
void flip_bytes(uint8_t* to, const int8_t* from, int64_t n) {
  typedef uint8_t bytes __attribute__((vector_size(sizeof(vf)), aligned(1), may_alias));
  constexpr int64_t L = sizeof(vf);
  int64_t i = 0;
  for (; i + L <= n; i += L) *reinterpret_cast<bytes*>(to + i) = *reinterpret_cast<const bytes*>(from + i) ^ 0x80;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, from + i, 8);
    eight ^= 0x8080808080808080u;
    std::memcpy(to + i, &eight, 8);
  }
  for (; i < n; i++) to[i] = static_cast<uint8_t>(from[i]) ^ 0x80;
}

// stage_row for bytes whose channels are not padded; int8 becomes uint8 by adding 128.
template <class From>
void stage_bytes(const From* src, int64_t sw, int64_t sc, int64_t n, const ConvBox& b, uint8_t* dst) {
  constexpr bool flip = std::is_signed_v<From>;
  const auto* bytes = reinterpret_cast<const int8_t*>(src);
  const bool rows = sc == 1 || b.cn == 1;
  if (!rows || !flip) {
    const auto* from = reinterpret_cast<const char*>(src);
    auto* to = reinterpret_cast<char*>(dst);
    if (rows && sw == b.cn && b.pixel == b.cn) std::memcpy(dst, src, static_cast<size_t>(n * b.cn));
    else PTRT_PLAIN::move2d(1, n, b.cn, from, sw, sc, to, b.pixel, 1);
    if (!flip) return;
    sw = b.pixel;
    bytes = reinterpret_cast<const int8_t*>(dst);
  }
  if (sw == b.cn && b.pixel == b.cn) return flip_bytes(dst, bytes, n * b.cn);
  for (int64_t w = 0; w < n; w++) flip_bytes(dst + w * b.pixel, bytes + w * sw, b.cn);
}

// One row of a box: `n` pixels, source element (w, c) at src[w * sw + c * sc].
template <class Conv, class To>
void stage_row(const typename Conv::From* src, int64_t sw, int64_t sc, int64_t n, const ConvBox& b, int32_t zero, To* dst) {
  const bool packed = b.group == b.group_pitch;
  if constexpr (sizeof(To) == 1)
    if (packed) return stage_bytes(src, sw, sc, n, b, dst);
  if (packed && std::is_same_v<To, typename Conv::From> && (sc == 1 || b.cn == 1)) {
    if (sw == b.cn && b.pixel == b.cn) {
      std::memcpy(dst, src, static_cast<size_t>(n * b.cn) * sizeof(To));
    } else if (b.cn == 1) {
      for (int64_t w = 0; w < n; w++) dst[w * b.pixel] = static_cast<To>(Conv::get(src[w * sw], zero));
    } else {
      for (int64_t w = 0; w < n; w++) std::memcpy(dst + w * b.pixel, src + w * sw, static_cast<size_t>(b.cn) * sizeof(To));
    }
    return;
  }
  constexpr bool halves = std::is_same_v<Conv, AsF16> || std::is_same_v<Conv, AsBF16>;
  if constexpr (halves) {
    constexpr DType type = std::is_same_v<Conv, AsF16> ? DType::f16 : DType::bf16;
    if (packed && sc == 1 && b.cn >= W / 2) {
      if (sw == b.cn && b.pixel == b.cn) halves_to_floats(type, dst, src, n * b.cn);
      else
        for (int64_t w = 0; w < n; w++) halves_to_floats(type, dst + w * b.pixel, src + w * sw, b.cn);
      return;
    }
    if (packed && sw == 1) {
      constexpr int64_t kPixels = 64, kPlanes = 16;
      alignas(64) float planes[kPlanes * kPixels];
      for (int64_t w = 0; w < n; w += kPixels)
        for (int64_t c = 0; c < b.cn; c += kPlanes) {
          const int64_t pixels = least(kPixels, n - w), channels = least(kPlanes, b.cn - c);
          for (int64_t k = 0; k < channels; k++) halves_to_floats(type, planes + k * kPixels, src + (c + k) * sc + w, pixels);
          transpose(planes, kPixels, channels, pixels, dst + w * b.pixel + c, b.pixel);
        }
      return;
    }
  }
  if (packed && (sc == 1 || b.cn == 1)) {
    if constexpr (std::is_same_v<To, float> && sizeof(typename Conv::From) == 1)
      if (b.cn >= W) {
        const vf z = splat(static_cast<float>(zero));
        for (int64_t w = 0; w < n; w++)
          for (int64_t c = 0; c < b.cn; c += W) {  // the last vector overlaps the one before
            const int64_t k = c + W <= b.cn ? c : b.cn - W;
            store(dst + w * b.pixel + k, to_float(widened<typename Conv::From>(src + w * sw + k)) - z);
          }
        return;
      }
    for (int64_t w = 0; w < n; w++)
      for (int64_t c = 0; c < b.cn; c++) dst[w * b.pixel + c] = static_cast<To>(Conv::get(src[w * sw + c], zero));
    return;
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Conv, AsF32>)
    if (packed && sw == 1 && b.cn == 3 && b.pixel == 3) return interleave3(src, sc, n, dst);
#endif
  if constexpr (std::is_same_v<Conv, AsF32>)
    if (packed && sw == 1) return transpose(src, sc, b.cn, n, dst, b.pixel);
  constexpr int64_t kChunk = 16;  // transposing: short runs of pixels, so that the destination lines stay in cache
  for (int64_t w0 = 0; w0 < n; w0 += kChunk) {
    const int64_t w1 = w0 + kChunk < n ? w0 + kChunk : n;
    int64_t at = 0, in_group = 0;
    for (int64_t c = 0; c < b.cn; c++) {
      const typename Conv::From* s = src + c * sc;
      if (sw == 1)
        for (int64_t w = w0; w < w1; w++) dst[w * b.pixel + at] = static_cast<To>(Conv::get(s[w], zero));
      else
        for (int64_t w = w0; w < w1; w++) dst[w * b.pixel + at] = static_cast<To>(Conv::get(s[w * sw], zero));
      at++;
      if (++in_group == b.group) {
        for (; in_group < b.group_pitch; in_group++, at++)
          for (int64_t w = w0; w < w1; w++) dst[w * b.pixel + at] = To(0);
        in_group = 0;
      }
    }
  }
}

// Every byte becomes `fill`.
template <class To>
void fill_pixels(To* dst, int64_t n, const ConvBox& b, int fill) {
  const int64_t width = b.group == b.group_pitch ? b.cn : (b.cn + b.group - 1) / b.group * b.group_pitch;
  if (width == b.pixel) {
    std::memset(dst, fill, static_cast<size_t>(n * width) * sizeof(To));
    return;
  }
  for (int64_t w = 0; w < n; w++) std::memset(dst + w * b.pixel, fill, static_cast<size_t>(width) * sizeof(To));
}

template <class Conv, class To>
void stage_box(const char* data, const ConvStrides& xs, const int64_t* in, const ConvBox& b, int32_t zero, To* dst, int fill = 0) {
  const auto* x = reinterpret_cast<const typename Conv::From*>(data) + b.c0 * xs.c;
  const int64_t left = b.begin[2] < 0 ? (-b.begin[2] < b.size[2] ? -b.begin[2] : b.size[2]) : 0;
  int64_t end = in[2] - b.begin[2];  // first column past the input
  if (end > b.size[2]) end = b.size[2];
  if (end < left) end = left;
  for (int64_t d = 0; d < b.size[0]; d++) {
    const int64_t id = b.begin[0] + d * b.depth_step;
    for (int64_t h = 0; h < b.size[1]; h++) {
      To* row = dst + d * b.plane + h * b.row;
      const int64_t ih = b.begin[1] + h;
      if (id < 0 || id >= in[0] || ih < 0 || ih >= in[1] || end == left) {
        fill_pixels(row, b.size[2], b, fill);
        continue;
      }
      fill_pixels(row, left, b, fill);
      stage_row<Conv, To>(x + id * xs.s[0] + ih * xs.s[1] + (b.begin[2] + left) * xs.s[2], xs.s[2], xs.c, end - left, b, zero,
                          row + left * b.pixel);
      fill_pixels(row + end * b.pixel, b.size[2] - end, b, fill);
    }
  }
}

}  // namespace

void conv_stage(ConvMath math, const Operand& x, const char* data, const ConvStrides& xs, const int64_t* in, const ConvBox& box,
                int32_t x_zero, void* dst) {
  if (math == ConvMath::f64) stage_box<AsF64>(data, xs, in, box, 0, static_cast<double*>(dst));
  else if (x.dtype == DType::f32) stage_box<AsF32>(data, xs, in, box, 0, static_cast<float*>(dst));
  else if (x.dtype == DType::f16) stage_box<AsF16>(data, xs, in, box, 0, static_cast<float*>(dst));
  else if (x.dtype == DType::bf16) stage_box<AsBF16>(data, xs, in, box, 0, static_cast<float*>(dst));
  else if (math == ConvMath::f32 && x.dtype == DType::u8) stage_box<AsU8>(data, xs, in, box, x_zero, static_cast<float*>(dst));
  else if (math == ConvMath::f32) stage_box<AsI8>(data, xs, in, box, x_zero, static_cast<float*>(dst));
  else if (x.dtype == DType::u8) stage_box<AsU8>(data, xs, in, box, x_zero, static_cast<int16_t*>(dst));
  else stage_box<AsI8>(data, xs, in, box, x_zero, static_cast<int16_t*>(dst));
}

void conv_stage_bytes(const Operand& x, const char* data, const ConvStrides& xs, const int64_t* in, const ConvBox& box, uint8_t fill,
                      uint8_t* dst) {
  if (x.dtype == DType::u8) stage_box<AsU8>(data, xs, in, box, 0, dst, fill);
  else stage_box<AsI8>(data, xs, in, box, -128, dst, fill);
}

}  // namespace ptrt::PTRT_LEVEL
