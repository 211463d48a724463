// A step of a plain float32 LSTM, or GRU with linear_before_reset: a block of hidden units (a vector of them) at a time from the recurrent
// product to the new state, so that a block's gates are computed while the next one's weights come from the L2.
#pragma once
#include <type_traits>
#include <utility>

#include "core/launch.h"
#include "cpu/recurrent_gates.h"
#include "cpu/tile_finish.h"

namespace ptrt::PTRT_LEVEL {

struct RecurrentStep {
  const float *h = nullptr, *gx = nullptr;     // old states; input products, with the biases, by blocks of [gate][lane]
  float *next = nullptr, *c = nullptr;         // new states; cell states (LSTM), changed in place
  const float* weights[2] = {};                // packed panels of each group of gates, from the first unit of the layer on
  const float *late = nullptr, *xh = nullptr;  // GRU's candidate: bias of its recurrent product; its input product
  int64_t rows = 0, K = 0;                     // sequences, at most kStepRows; hidden units
  int64_t pitch = 0, cols = 0;                 // of rows of states; of rows of gx and xh
  int64_t first = 0, count = 0, blocks = 0;    // blocks to do; blocks of the layer
  bool down = false;                           // from the last block to the first
};

// The most sequences that are taken so: more are bound by arithmetic, not by the L2, and larger tiles with the gates apart are as fast.
constexpr int kStepRows = kMaxRows[4] > 0 ? 4 : 2;

namespace {

// acc[m][g] += h[m] . column g of the weights.
template <int M, int G>
struct GateSums {
  static constexpr int kSetsOfSums = 8 / (G * M) > 1 ? 2 : 1;  // independent chains of additions, to hide their latency
  const float* w[G];
  int64_t ld[G];
  vf acc[M][G];

  PTRT_INLINE void add(const RecurrentStep& s) {
    const int64_t ahead = stream_prefetch_bytes() / static_cast<int64_t>(sizeof(float)), length = chain_length(s.K);
    const float* h = s.h;
    vf part[kSetsOfSums][M][G];
    const auto step = [&](vf(&to)[M][G], auto prefetch) __attribute__((always_inline)) {
      vf x[M];
      PTRT_UNROLL for (int m = 0; m < M; m++) x[m] = splat(h[m * s.pitch]);
      h++;
      PTRT_UNROLL for (int g = 0; g < G; g++) {
        vf b = load(w[g]);
        if constexpr (M > 1) PTRT_KEEP(b);
        if constexpr (decltype(prefetch)::value) __builtin_prefetch(w[g] + ahead, 0, 3);
        w[g] += ld[g];
        PTRT_UNROLL for (int m = 0; m < M; m++) to[m][g] += x[m] * b;
      }
    };
    const auto steps = [&](int64_t k, auto prefetch) __attribute__((always_inline)) {
      for (; k >= kSetsOfSums; k -= kSetsOfSums) PTRT_UNROLL for (int u = 0; u < kSetsOfSums; u++) step(part[u], prefetch);
      for (; k > 0; k--) step(part[0], prefetch);
    };
    for (int64_t k = 0; k < s.K; k += length) {
      const int64_t run = s.K - k < length ? s.K - k : length;
      PTRT_UNROLL for (int u = 0; u < kSetsOfSums; u++) clear(part[u]);
      if (ahead) steps(run, std::true_type());
      else steps(run, std::false_type());
      add_sets(part);
      PTRT_UNROLL for (int m = 0; m < M; m++) PTRT_UNROLL for (int g = 0; g < G; g++) acc[m][g] += part[0][m][g];
    }
  }
};

template <int M>
PTRT_NOINLINE void lstm_block(const RecurrentStep& s, int64_t block) {
  GateSums<M, 4> sums;
  PTRT_UNROLL for (int g = 0; g < 4; g++) {
    sums.w[g] = s.weights[0] + block * 4 * W * s.K + (g / 2) * 2 * W * s.K + g % 2 * W;
    sums.ld[g] = 2 * W;
  }
  PTRT_UNROLL for (int m = 0; m < M; m++) PTRT_UNROLL for (int g = 0; g < 4; g++) sums.acc[m][g] =
      load(s.gx + m * s.cols + (block * 4 + g) * W);
  sums.add(s);
  PTRT_UNROLL for (int m = 0; m < M; m++) {
    const int64_t at = m * s.pitch + block * W;
    vf state = load(s.c + at);
    store(s.next + at, lstm_cell(sums.acc[m][0], sums.acc[m][1], sums.acc[m][2], sums.acc[m][3], state));
    store(s.c + at, state);
  }
}

template <int M>
PTRT_NOINLINE void gru_block(const RecurrentStep& s, int64_t block) {
  GateSums<M, 3> sums;
  PTRT_UNROLL for (int g = 0; g < 2; g++) {
    sums.w[g] = s.weights[0] + block * 2 * W * s.K + g * W;
    sums.ld[g] = 2 * W;
  }
  const int64_t pair = block / 2 * 2;
  sums.w[2] = s.weights[1] + pair * W * s.K + (block - pair) * W;
  sums.ld[2] = pair + 1 < s.blocks ? 2 * W : W;
  PTRT_UNROLL for (int m = 0; m < M; m++) {
    PTRT_UNROLL for (int g = 0; g < 2; g++) sums.acc[m][g] = load(s.gx + m * s.cols + (block * 2 + g) * W);
    sums.acc[m][2] = load(s.late + block * W);
  }
  sums.add(s);
  PTRT_UNROLL for (int m = 0; m < M; m++) {
    const int64_t at = m * s.pitch + block * W;
    const vf r = 1.0f / (odds(sums.acc[m][1]) + 1.0f), x = sums.acc[m][2] * r + load(s.xh + m * s.cols + block * W);
    store(s.next + at, gru_cell(odds(sums.acc[m][0]), x, load(s.h + at)));
  }
}

template <bool kLstm, int... M>
void take_step(const RecurrentStep& s, std::integer_sequence<int, M...>) {
  using BlockFn = void (*)(const RecurrentStep&, int64_t);
  static constexpr BlockFn fns[] = {(kLstm ? lstm_block<M + 1> : gru_block<M + 1>)...};
  for (int64_t i = 0; i < s.count; i++) fns[s.rows - 1](s, s.first + (s.down ? s.count - 1 - i : i));
}

}  // namespace
}  // namespace ptrt::PTRT_LEVEL
