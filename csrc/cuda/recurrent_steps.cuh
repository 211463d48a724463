// Steps first_step .. last_step of a recurrent layer. A block advances NB sequences of one direction by `units` hidden units; their sums
// over the gates' weights are split over parts of k by thread, put together in shared memory, and one thread per sequence and unit updates
// the state.
//
// RESIDENT: a block has all hidden units, so it runs all steps of the stretch by itself, its state in shared memory and registers; the
// first HELD packs of weights of each thread stay in registers. Otherwise the planner makes a call per step (two for a GRU that resets
// before the product): the state goes through global memory, because blocks that wait for each other within a kernel could wait forever.
//
// The weights are packed so that neighbouring threads, which have neighbouring units, load 16 bytes of k each: see recurrent_pack.
#pragma once
#include "recurrent_cell.cuh"

constexpr bool RESET_FIRST = CELL == GRU && !LBR;
constexpr int KC = 512;  // k's of the state in shared memory at a time
using Sum = Select<QUANT, i32, A>::type;
using Operand = Select<QUANT, i8, A>::type;
using Weights = Pack<Select<QUANT, i32, P>::type, QUANT ? KQ / 4 : KQ>;  // 16 bytes; of integers, four to a word

struct Shared {
  alignas(16) Sum parts[GATES * NB * THREADS];  // [part of k][gate][sequence][unit]
  alignas(16) Operand state[NB * KC];
  f32 least[THREADS / 32], most[THREADS / 32];
};

struct Block {
  int direction, part, unit, u;  // of this thread: which part of k, its unit within the layer and the block
  Idx n0;
  bool multiplies;
};

__forceinline__ Weights weights_at(const Args& a, const Block& b, int pack, int gate) {
  using T = Select<QUANT, i32, P>::type;
  const P* p = a.packed + (((b.direction * static_cast<Idx>(a.packs) + pack) * GATES + gate) * a.hidden + b.unit) * KQ;
  return load_pack<T, QUANT ? KQ / 4 : KQ>(reinterpret_cast<const T*>(p));
}

__forceinline__ void load_held(const Args& a, const Block& b, Weights (&held)[HELD > 0 ? HELD : 1][GATES]) {
#pragma unroll
  for (int m = 0; m < HELD; m++) {
    const int pack = b.part + m * a.parts_of_k;
#pragma unroll
    for (int g = 0; g < GATES; g++)
      if (b.multiplies && pack < a.packs) held[m][g] = weights_at(a, b, pack, g);
  }
}

// One pack of weights of each gate times the states of all sequences. Quantised: (q - z) (w - v) = q w - v q - z w + z v, whose last term
// the caller adds; q and w are signed bytes.
template <int COUNT>
__forceinline__ void accumulate(const Weights (&w)[COUNT], const Operand* state, const int (&zero)[COUNT], int state_zero,
                                Sum (&sums)[COUNT][NB]) {
  if constexpr (QUANT) {
    constexpr int ones = 0x01010101;
#pragma unroll
    for (int i = 0; i < KQ; i += 4) {
      int word[COUNT], word_sum[COUNT];
#pragma unroll
      for (int g = 0; g < COUNT; g++) {
        word[g] = static_cast<int>(w[g].at[i / 4]);
        word_sum[g] = __dp4a(word[g], ones, 0) * state_zero;
      }
#pragma unroll
      for (int n = 0; n < NB; n++) {
        const int q = *reinterpret_cast<const int*>(state + n * KC + i), q_sum = __dp4a(q, ones, 0);
#pragma unroll
        for (int g = 0; g < COUNT; g++) sums[g][n] += __dp4a(word[g], q, -zero[g] * q_sum - word_sum[g]);
      }
    }
  } else {
    constexpr int W = KQ < 16 / static_cast<int>(sizeof(A)) ? KQ : 16 / static_cast<int>(sizeof(A));
#pragma unroll
    for (int i = 0; i < KQ; i += W) {
#pragma unroll
      for (int n = 0; n < NB; n++) {
        const Pack<A, W> h = load_pack<A, W>(reinterpret_cast<const A*>(state) + n * KC + i);
#pragma unroll
        for (int g = 0; g < COUNT; g++)
#pragma unroll
          for (int j = 0; j < W; j++) sums[g][n] += static_cast<A>(value_of(w[g].at[i + j])) * h.at[j];
      }
    }
  }
}

// sums += this thread's part of the products of gates FIRST .. with k's [k0, k0 + count) of the state in shared memory.
template <int FIRST, int COUNT>
__forceinline__ void product(const Args& a, const Block& b, const Shared& shared, const Weights (&held)[HELD > 0 ? HELD : 1][GATES], int k0,
                             int count, const int (&zero)[GATES], int state_zero, Sum (&sums)[COUNT][NB]) {
  int own[COUNT];
#pragma unroll
  for (int g = 0; g < COUNT; g++) own[g] = zero[FIRST + g];
  const int packs = (count + KQ - 1) / KQ;
#pragma unroll
  for (int m = 0; m < HELD; m++) {
    const int pack = b.part + m * a.parts_of_k;
    Weights w[COUNT];
#pragma unroll
    for (int g = 0; g < COUNT; g++) w[g] = held[m][FIRST + g];
    if (pack < packs) accumulate<COUNT>(w, shared.state + pack * KQ, own, state_zero, sums);
  }
#pragma unroll(QUANT || HELD > 0 ? 1 : 2)
  for (int pack = b.part + HELD * a.parts_of_k; pack < packs; pack += a.parts_of_k) {
    Weights w[COUNT];
#pragma unroll
    for (int g = 0; g < COUNT; g++) w[g] = weights_at(a, b, k0 / KQ + pack, FIRST + g);
    accumulate<COUNT>(w, shared.state + pack * KQ, own, state_zero, sums);
  }
}

template <int COUNT>
__forceinline__ void leave_parts(const Args& a, const Block& b, Shared& shared, const Sum (&sums)[COUNT][NB]) {
  if (!b.multiplies) return;
#pragma unroll
  for (int g = 0; g < COUNT; g++)
#pragma unroll
    for (int n = 0; n < NB; n++) shared.parts[((b.part * COUNT + g) * NB + n) * a.units + b.u] = sums[g][n];
}

// The whole sums of sequence n and unit u.
template <int COUNT>
__forceinline__ void take_parts(const Args& a, const Shared& shared, int n, int u, Sum (&sums)[COUNT]) {
#pragma unroll
  for (int g = 0; g < COUNT; g++) sums[g] = 0;
#pragma unroll 4
  for (int part = 0; part < a.parts_of_k; part++)
#pragma unroll
    for (int g = 0; g < COUNT; g++) sums[g] += shared.parts[((part * COUNT + g) * NB + n) * a.units + u];
}

__forceinline__ A clipped(const Args& a, A x) {
  if (PLAIN || !(a.clip > A(0))) return x;
  x = x > a.clip ? a.clip : x;
  return x < -a.clip ? -a.clip : x;
}
template <int FUNCTION>
__forceinline__ A gate(const Args& a, int direction, A x) {  // x is clipped already
  if constexpr (PLAIN) return FUNCTION == 0 && CELL != RNN ? op::sigmoid_(x) : tangent(x);
  else {
    const int k = direction * FUNCTIONS + FUNCTION;
    return activate<A>(a.activations[k], a.alphas[k], a.betas[k], x);
  }
}
// 1 - gate(x), without the loss of what is close to 1.
template <int FUNCTION>
__forceinline__ A rest_of_gate(const Args& a, int direction, A x, A value) {
  if (PLAIN || a.activations[direction * FUNCTIONS + FUNCTION] == kSigmoid) return op::sigmoid_(-x);
  return A(1) - value;
}

template <class T>
__forceinline__ A element(const Args& a, const T* data, const Idx (&stride)[3], int direction, Idx n, Idx j) {
  return static_cast<A>(value_of(data[direction * stride[0] + n * stride[1] + j * stride[2]]));
}

__forceinline__ A peephole(const Args& a, int direction, int gate, int unit) {
  const Idx j = gate * static_cast<Idx>(a.hidden) + unit;
  return static_cast<A>(value_of(a.peepholes[direction * a.peephole_stride[0] + j * a.peephole_stride[1]]));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) recurrent_steps(const __grid_constant__ Args a) {
  __shared__ Shared shared;
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  Idx at[3] = {};  // direction, sequences, units
  unravel<0, 3>(static_cast<Idx>(blockIdx.x), a.blocks, at);
  Block b;
  b.direction = static_cast<int>(at[0]);
  b.n0 = at[1] * NB;
  b.part = tid / a.units;
  b.u = tid - b.part * a.units;
  const int unit0 = static_cast<int>(at[2]) * a.units;
  b.unit = unit0 + b.u;
  b.multiplies = b.part < a.parts_of_k && b.unit < a.hidden;
  // The sequence and unit whose state this thread keeps.
  const int own = b.part, unit = b.unit;
  const Idx n = b.n0 + own;
  const bool keeps = own < NB && n < a.batch && unit < a.hidden;
  const Idx row = b.direction * a.batch + n, rows = a.all_rows;
  const bool backward = a.backward || b.direction == 1;

  int longest = 0;
  for (int i = 0; i < NB; i++)
    if (b.n0 + i < a.batch) longest = max(longest, length_of(a, b.n0 + i));
  const int length = keeps ? length_of(a, n) : 0;

  A h = 0, c = 0;
  if (keeps) {
    if (a.first) {
      if (a.has_h0) h = element(a, a.h0, a.h0_stride, b.direction, n, unit);
      if (CELL == LSTM && a.has_c0) c = element(a, a.c0, a.c0_stride, b.direction, n, unit);
    } else {
      h = a.states[((a.first_step & 1) * rows + row) * a.hidden + unit];
      if (CELL == LSTM) c = a.cells[row * a.hidden + unit];
    }
  }
  int zero[GATES] = {};
  A scale[GATES];
  if constexpr (QUANT)
    if (b.unit < a.hidden)
#pragma unroll
      for (int g = 0; g < GATES; g++) {
        const Idx column = g * static_cast<Idx>(a.hidden) + b.unit;
        zero[g] = static_cast<int>(a.zero[b.direction * a.zero_stride[0] + column * a.zero_stride[1]]) - ZERO_SHIFT;
        scale[g] = a.scale[b.direction * a.scale_stride[0] + column * a.scale_stride[1]];
      }
  Weights held[HELD > 0 ? HELD : 1][GATES];
  load_held(a, b, held);

  // Puts [k0, k0 + KC) of all states (of the vectors `from`, or a GRU's reset states) into shared memory; resident blocks have them there
  // already.
  auto stage = [&](const A* from, bool initial, int k0, const Quantizer& range) {
    __syncthreads();
    for (int i = tid; i < NB * KC; i += THREADS) {
      const int k = i % KC;
      const Idx m = b.n0 + i / KC;
      A v = 0;
      const bool real = m < a.batch && k0 + k < a.hidden;
      if (real && !initial) v = from[(b.direction * a.batch + m) * a.hidden + k0 + k];
      else if (real && a.has_h0) v = element(a, a.h0, a.h0_stride, b.direction, m, k0 + k);
      if constexpr (QUANT) shared.state[i] = real ? static_cast<i8>(range.shifted(v) + range.zero - 128) : 0;
      else shared.state[i] = v;
    }
    __syncthreads();
  };
  if constexpr (RESIDENT) {
    for (int i = tid; i < NB * KC; i += THREADS) shared.state[i] = 0;
    __syncthreads();
    if (!QUANT && keeps) shared.state[own * KC + unit] = static_cast<Operand>(h);
    __syncthreads();
  }

  for (int step = a.first_step; step < a.last_step; step++) {
    const bool active = keeps && step < length;
    const int time = time_of(backward, step, length);
    const A* x = a.sums +
                 ((b.direction * static_cast<Idx>(a.stretch) + (step - a.sums_step)) * a.batch + n) * (GATES * static_cast<Idx>(a.hidden)) +
                 unit;
    A in[GATES];
    if (active)
#pragma unroll
      for (int g = 0; g < GATES; g++) in[g] = x[g * static_cast<Idx>(a.hidden)];
    const A* states = a.states + (step & 1) * rows * a.hidden;
    A* next_states = a.states + (~step & 1) * rows * a.hidden;
    const bool initial = a.first && step == a.first_step;

    f32 lo = 0, hi = 0;
    if constexpr (QUANT) {  // over the whole batch; a sequence that ended before the previous step does not count
      if constexpr (RESIDENT) {
        if (keeps && step <= length) lo = fminf(lo, h), hi = fmaxf(hi, h);
      } else {
        for (Idx i = tid; i < a.batch * a.hidden; i += THREADS) {
          const Idx m = i / a.hidden, j = i - m * a.hidden;
          if (step > length_of(a, m)) continue;
          A v = 0;
          if (!initial) v = states[(b.direction * a.batch + m) * a.hidden + j];
          else if (a.has_h0) v = element(a, a.h0, a.h0_stride, b.direction, m, j);
          lo = fminf(lo, v), hi = fmaxf(hi, v);
        }
      }
      spread_range(lo, hi);
      if (lane == 0) shared.least[warp] = lo, shared.most[warp] = hi;
      __syncthreads();
      lo = shared.least[lane % (THREADS / 32)];
      hi = shared.most[lane % (THREADS / 32)];
      spread_range(lo, hi);
    }
    const Quantizer range(lo, hi);
    const int state_zero = range.zero - 128;
    if constexpr (QUANT && RESIDENT) {
      if (keeps) shared.state[own * KC + unit] = static_cast<i8>(range.shifted(h) + state_zero);
      __syncthreads();
    }

    A z = 0, rest = 0, reset_h = 0;
    constexpr int COUNT = RESET_FIRST ? 2 : GATES;
    if ((a.phases & 1) && step < longest) {
      Sum sums[COUNT][NB] = {}, whole[COUNT];
      if constexpr (RESIDENT) {
        if (b.multiplies) product<0, COUNT>(a, b, shared, held, 0, a.hidden, zero, state_zero, sums);
      } else {
        for (int k0 = 0; k0 < a.hidden; k0 += KC) {
          stage(states, initial, k0, range);
          if (b.multiplies) product<0, COUNT>(a, b, shared, held, k0, min(KC, a.hidden - k0), zero, state_zero, sums);
        }
      }
      leave_parts<COUNT>(a, b, shared, sums);
      __syncthreads();
      if (active) {
        take_parts<COUNT>(a, shared, own, b.u, whole);
        A s[GATES];
#pragma unroll
        for (int g = 0; g < COUNT; g++) {
          if constexpr (QUANT) s[g] = fused(static_cast<A>(whole[g] + a.hidden * state_zero * zero[g]), range.scale * scale[g], in[g]);
          else s[g] = whole[g] + (CELL == GRU && g == 2 ? A(0) : in[g]);
        }
        if constexpr (CELL == LSTM) {
          if (!PLAIN && a.has_peepholes) {
            s[0] = fused(peephole(a, b.direction, 0, unit), c, s[0]);
            s[2] = fused(peephole(a, b.direction, 2, unit), c, s[2]);
          }
          const A i = gate<0>(a, b.direction, clipped(a, s[0]));
          const A f = !PLAIN && a.input_forget ? A(1) - i : gate<0>(a, b.direction, clipped(a, s[2]));
          c = fused(f, c, i * gate<1>(a, b.direction, clipped(a, s[3])));
          if (!PLAIN && a.has_peepholes) s[1] = fused(peephole(a, b.direction, 1, unit), c, s[1]);
          h = gate<0>(a, b.direction, clipped(a, s[1])) * gate<2>(a, b.direction, c);  // the cell's own output is not clipped
        } else if constexpr (CELL == RNN) {
          h = gate<0>(a, b.direction, clipped(a, s[0]));
        } else {
          const A zx = clipped(a, s[0]), r = gate<0>(a, b.direction, clipped(a, s[1]));
          z = gate<0>(a, b.direction, zx);
          rest = rest_of_gate<0>(a, b.direction, zx, z);
          reset_h = r * h;
          if constexpr (!RESET_FIRST) {
            A own_part = s[2];
            if (a.has_bias)
              own_part += static_cast<A>(
                  value_of(a.bias[b.direction * a.bias_stride[0] + (5 * static_cast<Idx>(a.hidden) + unit) * a.bias_stride[1]]));
            h = fused(z, h, rest * gate<1>(a, b.direction, clipped(a, fused(r, own_part, in[2]))));
          }
        }
      }
      if constexpr (RESET_FIRST) {
        if constexpr (RESIDENT) {
          if (active) shared.state[own * KC + unit] = static_cast<Operand>(reset_h);
        } else if (keeps) {  // other blocks read those of sequences that have ended, too
          a.resets[row * a.hidden + unit] = reset_h;
          a.updates[row * a.hidden + unit] = z;
          a.updates[(rows + row) * a.hidden + unit] = rest;
        }
      }
    }
    if constexpr (RESET_FIRST) {
      if ((a.phases & 2) && step < longest) {
        Sum sums[1][NB] = {}, whole[1];
        __syncthreads();  // the reset states are there, and the first sums have been read
        if constexpr (RESIDENT) {
          if (b.multiplies) product<2, 1>(a, b, shared, held, 0, a.hidden, zero, state_zero, sums);
        } else {
          for (int k0 = 0; k0 < a.hidden; k0 += KC) {
            stage(a.resets, false, k0, range);
            if (b.multiplies) product<2, 1>(a, b, shared, held, k0, min(KC, a.hidden - k0), zero, state_zero, sums);
          }
          if (active) {
            z = a.updates[row * a.hidden + unit];
            rest = a.updates[(rows + row) * a.hidden + unit];
          }
        }
        leave_parts<1>(a, b, shared, sums);
        __syncthreads();
        if (active) {
          take_parts<1>(a, shared, own, b.u, whole);
          h = fused(z, h, rest * gate<1>(a, b.direction, clipped(a, static_cast<A>(whole[0]) + in[2])));
        }
      }
      if (!(a.phases & 2)) return;
    }

    if constexpr (RESIDENT) {
      if (!QUANT && keeps) shared.state[own * KC + unit] = static_cast<Operand>(h);
      __syncthreads();
    }
    if (keeps && !(RESIDENT && step + 1 < a.last_step) && !a.last) {
      next_states[row * a.hidden + unit] = h;
      if (CELL == LSTM) a.cells[row * a.hidden + unit] = c;
    }
    if (keeps && a.has_y)
      a.y_data[time * a.y_stride[0] + b.direction * a.y_stride[1] + n * a.y_stride[2] + unit * a.y_stride[3]] =
          stored<X>(static_cast<Value<X>>(active ? h : A(0)));
  }

  if (a.last && keeps) {
    if (a.has_y_h)
      a.y_h_data[b.direction * a.y_h_stride[0] + n * a.y_h_stride[1] + unit * a.y_h_stride[2]] =
          stored<X>(static_cast<Value<X>>(length ? h : A(0)));
    if (a.has_y_c)
      a.y_c_data[b.direction * a.y_c_stride[0] + n * a.y_c_stride[1] + unit * a.y_c_stride[2]] =
          stored<X>(static_cast<Value<X>>(length ? c : A(0)));
  }
}
