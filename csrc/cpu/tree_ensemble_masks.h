// The leaves that rows reach in a tree, from its lists of tests (tree_ensemble_forest.h): many rows as lanes, or, with AVX-512, the tests
// of one row.
#pragma once
#include "cpu/lanes.h"
#include "cpu/tree_ensemble_forest.h"

namespace ptrt::PTRT_LEVEL {
namespace {

// Lanes of leaf masks beside lanes of C.
template <class C>
struct MaskLanes;
template <>
struct MaskLanes<float> {
  typedef vu V;
  typedef vu Unaligned __attribute__((aligned(4), may_alias));
};
template <>
struct MaskLanes<double> {
  typedef uint64_t V __attribute__((vector_size(kVecBytes)));
  typedef V Unaligned __attribute__((aligned(8), may_alias));
};

template <class C>
struct MaskTests {
  const C* threshold;
  const int32_t* feature;
  const LeafMask<C>* keep;
};

// Rules out leaves in the lanes where the test fails.
template <int Test>
PTRT_INLINE void rule_out(vu& leaves, vf x, vf t, vu keep) {
#if defined(__AVX512F__)
  constexpr int kFails[] = {_CMP_NLE_UQ, _CMP_GT_OQ, _CMP_NEQ_UQ, _CMP_NEQ_OQ};
  leaves =
      (vu)_mm512_mask_and_epi32((__m512i)leaves, _mm512_cmp_ps_mask((__m512)x, (__m512)t, kFails[Test]), (__m512i)leaves, (__m512i)keep);
#else
  const auto passes = Test == kLeq ? x <= t : Test == kLeqTracked ? ~(x > t) : Test == kEq ? x == t : ~((x < t) | (x > t));
  leaves &= (vu)passes | keep;
#endif
}
template <int Test>
PTRT_INLINE void rule_out(MaskLanes<double>::V& leaves, vd x, vd t, MaskLanes<double>::V keep) {
#if defined(__AVX512F__)
  constexpr int kFails[] = {_CMP_NLE_UQ, _CMP_GT_OQ, _CMP_NEQ_UQ, _CMP_NEQ_OQ};
  const auto all = (__m512i)leaves;
  leaves = (MaskLanes<double>::V)_mm512_mask_and_epi64(all, _mm512_cmp_pd_mask((__m512d)x, (__m512d)t, kFails[Test]), all, (__m512i)keep);
#else
  const auto passes = Test == kLeq ? x <= t : Test == kLeqTracked ? ~(x > t) : Test == kEq ? x == t : ~((x < t) | (x > t));
  leaves &= (MaskLanes<double>::V)passes | keep;
#endif
}

template <class C, int Test, int G>
PTRT_INLINE void rule_out(const MaskTests<C>& tests, int32_t first, int32_t count, const C* x, typename MaskLanes<C>::V (&leaves)[G]) {
  typedef typename MaskLanes<C>::V U;
  for (int32_t e = first; e < first + count; e++) {
    const auto threshold = splat(tests.threshold[e]);
    const U keep = tests.keep[e] - U{};
    const C* values = x + tests.feature[e] * kTreeRows;
    PTRT_UNROLL for (int g = 0; g < G; g++) rule_out<Test>(leaves[g], load(values + g * Lanes<C>::n), threshold, keep);
  }
}

// to[r]: the leaf of `tree`, from 0, that row r of G vectors reaches; x: columns.
template <class C, int G>
PTRT_NOINLINE void reach(const MaskTests<C>& tests, const MaskList* lists, int32_t words, const C* x, int32_t* to) {
  typedef typename MaskLanes<C>::V U;
  constexpr int L = Lanes<C>::n, kBits = 8 * sizeof(C);
  for (int32_t w = 0; w < words; w++) {
    U leaves[G];
    PTRT_UNROLL for (int g = 0; g < G; g++) leaves[g] = ~U{};
    const MaskList& list = lists[w];
    rule_out<C, kLeq>(tests, list.first[kLeq], list.count[kLeq], x, leaves);
    rule_out<C, kLeqTracked>(tests, list.first[kLeqTracked], list.count[kLeqTracked], x, leaves);
    rule_out<C, kEq>(tests, list.first[kEq], list.count[kEq], x, leaves);
    rule_out<C, kEqTracked>(tests, list.first[kEqTracked], list.count[kEqTracked], x, leaves);
    // The first word with a leaf left has the one: the words before it are known to be empty once they have been done.
    PTRT_UNROLL for (int g = 0; g < G; g++) {
#if defined(__AVX512CD__)
      if constexpr (sizeof(C) == 4) {
        const __m512i all = (__m512i)leaves[g], at = _mm512_add_epi32(_mm512_lzcnt_epi32(all), _mm512_set1_epi32(w * kBits));
        const __mmask16 some = _mm512_test_epi32_mask(all, all);
        const __m512i old = w ? _mm512_loadu_si512(to + g * L) : _mm512_set1_epi32(-1);
        _mm512_storeu_si512(to + g * L, _mm512_mask_mov_epi32(old, some & _mm512_movepi32_mask(old), at));
        continue;
      }
#endif
      typename MaskLanes<C>::V all = leaves[g];
      LeafMask<C> lane[L];
      std::memcpy(lane, &all, sizeof lane);
      for (int i = 0; i < L; i++) {
        const int zeros = sizeof(C) == 4 ? __builtin_clz(static_cast<uint32_t>(lane[i] | 1)) : __builtin_clzll(lane[i] | 1);
        int32_t& leaf = to[g * L + i];
        if (w == 0) leaf = -1;
        if (leaf < 0 && lane[i] != 0) leaf = w * kBits + zeros;
      }
    }
  }
}

#if defined(__AVX512CD__)
// The leaf of a small tree that one row reaches: its tests as lanes. x: the row's values of the features that lists refer to, `features` of
// them and readable up to 64.
template <int Test, int Registers>
PTRT_INLINE __m512i rule_out_row(const MaskTests<float>& tests, int32_t first, int32_t count, const float* x, const __m512* held,
                                 __m512i leaves) {
  constexpr int kFails[] = {_CMP_NLE_UQ, _CMP_GT_OQ, _CMP_NEQ_UQ, _CMP_NEQ_OQ};
  for (int32_t e = first; e < first + count; e += 16) {
    const __m512i at = _mm512_loadu_si512(tests.feature + e);
    __m512 v;
    if constexpr (Registers == 0) v = _mm512_i32gather_ps(at, x, 4);
    else v = _mm512_permutex2var_ps(held[0], at, held[1]);
    if constexpr (Registers == 4)
      v = _mm512_mask_mov_ps(v, _mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), _mm512_permutex2var_ps(held[2], at, held[3]));
    const __mmask16 fails = _mm512_cmp_ps_mask(v, _mm512_loadu_ps(tests.threshold + e), kFails[Test]);
    leaves = _mm512_mask_and_epi32(leaves, fails, leaves, _mm512_loadu_si512(tests.keep + e));
  }
  return leaves;
}

template <int Registers>
PTRT_INLINE int32_t reach_row(const MaskTests<float>& tests, const MaskList* lists, int32_t words, const float* x, const __m512* held) {
  for (int32_t w = 0; w < words; w++) {
    const MaskList& list = lists[w];
    __m512i leaves = _mm512_set1_epi32(-1);
    leaves = rule_out_row<kLeq, Registers>(tests, list.first[kLeq], list.count[kLeq], x, held, leaves);
    leaves = rule_out_row<kLeqTracked, Registers>(tests, list.first[kLeqTracked], list.count[kLeqTracked], x, held, leaves);
    leaves = rule_out_row<kEq, Registers>(tests, list.first[kEq], list.count[kEq], x, held, leaves);
    leaves = rule_out_row<kEqTracked, Registers>(tests, list.first[kEqTracked], list.count[kEqTracked], x, held, leaves);
    const auto all = static_cast<uint32_t>(_mm512_reduce_and_epi32(leaves));
    if (all) return w * 32 + __builtin_clz(all);
  }
  return 0;  // (never: a leaf is left in some word)
}
#endif

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
