// The instances of tile.h.
#include <type_traits>
#include <utility>

#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// What the sums have so far, while the accumulators hold their next chain of products only.
template <class T, int MR, int NV>
struct Sums {
  static constexpr int L = Lanes<T>::n;
  alignas(64) T at[MR][NV][L];
  bool started = false;
  Sums() { asm volatile("" : "=m"(at)); }  // never read before take(), but gcc does not see it
  // Takes what the accumulators hold and leaves zeros.
  PTRT_INLINE void take(V<T> (&acc)[MR][NV]) {
    if (started) add_to(acc);
    started = true;
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) store(at[i][j], acc[i][j]);
    clear(acc);
  }
  PTRT_INLINE void add_to(V<T> (&acc)[MR][NV]) const {
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += load(at[i][j]);
  }
};

// The accumulators of a last column vector of which half is enough.
template <int MR, bool HALF>
struct HalfSums {
  PTRT_INLINE void load(const float*) {}
  PTRT_INLINE void add(int, vf) {}
  PTRT_INLINE void add(int, const float*) {}
  template <class VEC, int NV>
  PTRT_INLINE void move_to(VEC (&)[MR][NV]) {}
};
#if defined(__AVX512F__)
template <int MR>
struct HalfSums<MR, true> {
  typedef float Half __attribute__((vector_size(kVecBytes / 2)));
  Half acc[MR], b;
  HalfSums() { PTRT_UNROLL for (int i = 0; i < MR; i++) acc[i] = Half{}; }
  PTRT_INLINE void load(const float* p) { b = (Half)_mm256_loadu_ps(p); }
  PTRT_INLINE void add(int i, vf a) {
    PTRT_KEEP(b);
    acc[i] += (Half)_mm512_castps512_ps256((__m512)a) * b;
  }
  PTRT_INLINE void add(int i, const float* a) {
    PTRT_KEEP(b);
    acc[i] += (Half)_mm256_set1_ps(*a) * b;
  }
  template <int NV>
  PTRT_INLINE void move_to(vf (&to)[MR][NV]) {
    PTRT_UNROLL for (int i = 0; i < MR; i++) to[i][NV - 1] = (vf)_mm512_zextps256_ps512((__m256)acc[i]), acc[i] = Half{};
  }
};
#endif

template <class T, int MR, int NV, bool HALF = false>
PTRT_NOINLINE void tile(const TileArgs<T>& g) {
  constexpr int L = Lanes<T>::n, kWhole = HALF ? NV - 1 : NV;
  V<T> acc[MR][NV];
  clear(acc);
  HalfSums<MR, HALF> half;
  Sums<T, MR, NV> sums;
  if (g.K * g.taps >= 8) prefetch_results<T, MR, NV>(g);
  const char* next = static_cast<const char*>(g.next ? g.next : g.B);
  const int64_t lda = g.lda, lda3 = 3 * lda, ks = g.ks, ldb = g.ldb, step = g.next_step;
  const int64_t length = chain_length(g.K * g.taps);
  int64_t chain = length;
  for (int64_t t = 0; t < g.taps; t++) {
    // Rows are reached from three base pointers by lda * {0, 1, 2, 3, 4}: one pointer per row would spill general registers. The empty asm
    // hides that the pointers are related, or the compiler would turn them back into one pointer per row.
    const T *a0 = g.A + (g.tap_at ? g.tap_at[t] : t * g.ts), *a1 = a0 + 5 * lda, *a2 = a0 + 10 * lda, *b = g.B + t * g.bts;
    for (int64_t left = g.K; left > 0;) {
      if (chain == 0) {
        half.move_to(acc);
        sums.take(acc);
        chain = length;
      }
      const int64_t run = left < chain ? left : chain;
      left -= run;
      chain -= run;
      const auto steps = [&](auto ahead) __attribute__((always_inline)) {
        for (int64_t k = 0; k < run; k++) {
          V<T> bv[NV];
          PTRT_UNROLL for (int j = 0; j < kWhole; j++) bv[j] = load(b + j * L);
          if constexpr (HALF) half.load(b + kWhole * L);
          b += ldb;
          if constexpr (kWhole > 0) {
            __builtin_prefetch(next, 0, 2);
            next += step;
          } else if constexpr (decltype(ahead)::value) {
            __builtin_prefetch(next, 0, 3);
            next += step;
          }
          PTRT_UNROLL for (int i = 0; i < MR; i++) {
            // (In front of the broadcast, which is part of the multiplication then if there is only one.)
            PTRT_UNROLL for (int j = 0; j < kWhole; j++) PTRT_KEEP(bv[j]);
            const T* p = i < 5 ? a0 : i < 10 ? a1 : a2;
            const int r = i % 5;
            if constexpr (kWhole == 0) {
              half.add(i, p + r * lda);
              continue;
            }
            const V<T> a = splat(r == 0 ? p[0] : r == 1 ? p[lda] : r == 2 ? p[2 * lda] : r == 3 ? p[lda3] : p[4 * lda]);
            PTRT_UNROLL for (int j = 0; j < kWhole; j++) acc[i][j] += a * bv[j];
            if constexpr (HALF) half.add(i, a);
          }
          a0 += ks;
          a1 += ks;
          a2 += ks;
          asm volatile("" : "+r"(a0), "+r"(a1), "+r"(a2));
        }
      };
      if (kWhole == 0 && !g.next) steps(std::false_type());  // a prefetch is a third of a step of so few products
      else steps(std::true_type());
    }
  }
  half.move_to(acc);
  if (sums.started) sums.add_to(acc);
  finish<T, MR, NV>(g, acc);
}

template <class T, int MR, int NV, int SETS>
PTRT_NOINLINE void small_tile(const TileArgs<T>& g) {
  constexpr int L = Lanes<T>::n;
  V<T> acc[SETS][MR][NV];
  PTRT_UNROLL for (int u = 0; u < SETS; u++) clear(acc[u]);
  const T *a = g.A, *b = g.B;
  const int64_t lda = g.lda, ks = g.ks, ldb = g.ldb, ahead = stream_prefetch_bytes() / static_cast<int64_t>(sizeof(T));
  int64_t k = 0;
  const auto steps = [&](auto prefetch) __attribute__((always_inline)) {
    for (; k + SETS <= g.K; k += SETS) {
      PTRT_UNROLL for (int u = 0; u < SETS; u++) {
        V<T> bv[NV];
        PTRT_UNROLL for (int j = 0; j < NV; j++) {
          bv[j] = load(b + j * L);
          if constexpr (decltype(prefetch)::value) __builtin_prefetch(b + j * L + ahead, 0, 3);
        }
        b += ldb;
        PTRT_UNROLL for (int i = 0; i < MR; i++) {
          const V<T> s = splat(a[i * lda]);
          PTRT_UNROLL for (int j = 0; j < NV; j++) acc[u][i][j] += s * bv[j];
        }
        a += ks;
      }
    }
  };
  // Where `ahead` is 0, the prefetch of the line at hand alone takes up to a fifth of what L2 delivers, and gains a thirtieth from memory.
  if (ahead || g.next) steps(std::true_type());
  else steps(std::false_type());
  for (; k < g.K; k++, a += ks, b += ldb)
    PTRT_UNROLL for (int i = 0; i < MR; i++) PTRT_UNROLL for (int j = 0; j < NV; j++) acc[0][i][j] += splat(a[i * lda]) * load(b + j * L);
  add_sets(acc);
  finish<T, MR, NV>(g, acc[0]);
}

template <class T, int NV, bool HALF = false, int... I>
TileFn<T> pick(int mr, std::integer_sequence<int, I...>) {
  static constexpr TileFn<T> fns[] = {nullptr, tile<T, I + 1, NV, HALF>...};
  return fns[mr];
}

template <class T>
TileFn<T> pick(int mr, int nv) {
  switch (nv) {
    case 1: return pick<T, 1>(mr, std::make_integer_sequence<int, kMaxRows[1]>());
    case 2: return pick<T, 2>(mr, std::make_integer_sequence<int, kMaxRows[2]>());
    default: break;
  }
  if constexpr (std::is_same_v<T, float>)
    return nv == 3 ? pick<T, 3>(mr, std::make_integer_sequence<int, kMaxRows[3]>())
                   : pick<T, 4>(mr, std::make_integer_sequence<int, kMaxRows[4]>());
  return nullptr;
}

template <class T>
TileFn<T> pick_small(int mr, int nv) {
  static constexpr TileFn<T> fns[2][4] = {
      {small_tile<T, 1, 1, kSets>, small_tile<T, 2, 1, kSets>, small_tile<T, 3, 1, kSets / 2>, small_tile<T, 4, 1, kSets / 2>},
      {small_tile<T, 1, 2, kSets>, small_tile<T, 2, 2, kSets>, small_tile<T, 3, 2, kSets / 2>, small_tile<T, 4, 2, kSets / 2>},
  };
  return fns[nv - 1][mr - 1];
}

}  // namespace

TileFn<float> tile_f32(int mr, int nv, bool half) {
#if defined(__AVX512F__)
  if (half && nv == 1) return pick<float, 1, true>(mr, std::make_integer_sequence<int, kMaxRows[1]>());
  if (half && nv == 2) return pick<float, 2, true>(mr, std::make_integer_sequence<int, kMaxRows[2]>());
  if (half && nv == 3) return pick<float, 3, true>(mr, std::make_integer_sequence<int, kMaxRows[3]>());
#endif
  (void)half;
  return pick<float>(mr, nv);
}
TileFn<double> tile_f64(int mr, int nv) { return pick<double>(mr, nv); }
TileFn<float> small_tile_f32(int mr, int nv) { return pick_small<float>(mr, nv); }
TileFn<double> small_tile_f64(int mr, int nv) { return pick_small<double>(mr, nv); }

}  // namespace ptrt::PTRT_LEVEL
