// How one operand of gemm_mma.cuh comes from global memory into the shared memory that ldmatrix reads: a tile of ROWS x 64 bytes of k.
//
//   kAlongK: the operand is dense along k and aligned: cp.async of 16 bytes into [row][k].
//   kAlongRows: 16-bit elements dense along the rows: cp.async of 16 bytes into [k][row], which ldmatrix transposes.
//   kPacks: dense along k, V elements at a time through registers, into [row][k]: converted (f32 to bf16), or not aligned to 16 bytes.
//   kTransposed: bytes dense along the rows: 4 x 4 bytes at a time, transposed in registers (ldmatrix moves pairs of bytes), into [row][k].
//   kScalars: any strides, element by element into [row][k]. Nothing is held in registers: more blocks hide what these loads cost.
//
// Chunks of 16 bytes are permuted within (pairs of) rows so that the 8 rows of an ldmatrix, and 16-byte stores, meet all banks.
#pragma once

enum Mode { kAlongK, kAlongRows, kPacks, kTransposed, kScalars };
constexpr int STAGE_K = 64, kChunks = STAGE_K / 16;

template <class T, class S, int MODE, int ROWS, int V, bool LANES_ALONG_K>
struct Stage {
  static constexpr int E = sizeof(S), KS = STAGE_K / E;  // values of k
  static constexpr int kBytes = ROWS * STAGE_K;
  static constexpr bool kAsync = MODE == kAlongK || MODE == kAlongRows;
  static constexpr int PER_WORD = 4 / E, U = MODE == kScalars ? PER_WORD : V;  // kPacks, kScalars: a unit is U values along k
  static constexpr int UNITS = kAsync ? ROWS * kChunks : MODE == kTransposed ? ROWS / 4 * (KS / 4) : ROWS * KS / U;
  static constexpr int COUNT = (UNITS + THREADS - 1) / THREADS;
  struct Empty {};
  typename Select<MODE == kPacks, Pack<T, V>[COUNT], typename Select<MODE == kTransposed, u32[COUNT][4], Empty>::type>::type held;

  // The byte of (row, chunk of 16 bytes of k), or with kAlongRows of (k, chunk of 8 rows).
  static __forceinline__ u32 at(int line, int chunk) {
    if constexpr (MODE == kAlongRows) {
      constexpr int P = ROWS / 8;
      const int swizzle = P >= 8 ? line & 7 : (line / (8 / P)) & (P - 1);
      return line * (ROWS * E) + (chunk ^ swizzle) * 16;
    } else {
      return line * STAGE_K + (chunk ^ ((line >> 1) & 3) ^ ((line >> 3) & 3)) * 16;
    }
  }
  static __forceinline__ u32 word_at(int row, int k) { return at(row, k * E / 16) + k * E % 16; }

  // The lanes' addresses for ldmatrix of a 16 x 32-byte piece of A: registers (rows 0.., k 0..), (rows 8.., k 0..), (rows 0.., k 16 bytes
  // ..), (rows 8.., k 16 bytes ..).
  static __forceinline__ u32 address_a(u32 base, int row, int chunk) {
    const int l = threadIdx.x % 32, low = l & 7, second = (l >> 3) & 1, fourth = l >> 4;
    if constexpr (MODE == kAlongRows) return base + at(chunk * 8 + low + fourth * 8, row / 8 + second);
    else return base + at(row + low + second * 8, chunk + fourth);
  }
  // The same for B, of two neighbouring groups of 8 columns: (columns 0.., k 0..), (columns 0.., k 16 bytes ..), (columns 8.., ...) twice.
  static __forceinline__ u32 address_b(u32 base, int row, int chunk) {
    const int l = threadIdx.x % 32, low = l & 7, second = (l >> 3) & 1, fourth = l >> 4;
    if constexpr (MODE == kAlongRows) return base + at(chunk * 8 + low + second * 8, row / 8 + fourth);
    else return base + at(row + low + fourth * 8, chunk + second);
  }

  static __forceinline__ void unit_at(int i, int& row, int& k) {
    if constexpr (MODE != kTransposed) {
      constexpr int PER = KS / U;
      row = LANES_ALONG_K ? i / PER : i % ROWS;
      k = (LANES_ALONG_K ? i % PER : i / ROWS) * U;
    } else {  // kTransposed: 8 lanes side by side along the rows, 4 along k
      const int lane = i % 32, group = i / 32;
      constexpr int ACROSS = ROWS / 32 > 0 ? ROWS / 32 : 1, LANES = ROWS / 4 < 8 ? ROWS / 4 : 8;
      row = (lane % LANES + group % ACROSS * LANES) * 4;
      k = (lane / LANES + group / ACROSS * (32 / LANES)) * 4;
    }
  }

  // Starts to bring rows row0.. and k0.. into the stage at `to`; what is held in registers is stored later. What is beyond `k_end` counts
  // as 0.
  __forceinline__ void fetch(char* to, const T* from, Idx row_stride, Idx k_stride, Idx row0, Idx rows, Idx k0, Idx k_end) {
    if constexpr (kAsync) {
      const u32 base = ptx_shared_address(to);
#pragma unroll
      for (int n = 0; n < COUNT; n++) {
        const int i = n * THREADS + threadIdx.x;
        if (UNITS % THREADS != 0 && i >= UNITS) break;
        constexpr int PER = MODE == kAlongK ? kChunks : ROWS / 8;
        const int line = i / PER, chunk = i % PER;
        const Idx r = row0 + (MODE == kAlongK ? line : chunk * 8), k = k0 + (MODE == kAlongK ? chunk * (16 / E) : line);
        const bool valid = r < rows && k < k_end;
        ptx_copy_async_16(base + at(line, chunk), valid ? from + r * row_stride + k * k_stride : from, valid);
      }
    } else if constexpr (MODE == kScalars) {
#pragma unroll 2
      for (int i = threadIdx.x; i < UNITS; i += THREADS) {
        int r, k;
        unit_at(i, r, k);
        const T* const p = from + (row0 + r) * row_stride + (k0 + k) * k_stride;
        u32 word = 0;
#pragma unroll
        for (int e = 0; e < PER_WORD; e++)
          if (row0 + r < rows && k0 + k + e < k_end) word |= element(p[e * k_stride]) << (8 * E * e);
        *reinterpret_cast<u32*>(to + word_at(r, k)) = word;
      }
    } else {
#pragma unroll
      for (int n = 0; n < COUNT; n++) {
        const int i = n * THREADS + threadIdx.x;
        int r, k;
        unit_at(i, r, k);
        const bool inside = (UNITS % THREADS == 0 || i < UNITS) && row0 + r < rows;
        const T* const p = from + (row0 + r) * row_stride + (k0 + k) * k_stride;
        if constexpr (MODE == kPacks) {
          held[n] = Pack<T, V>{};
          if (inside && k0 + k < k_end) held[n] = load_pack<T, V>(p);
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            held[n][j] = 0;
            if (inside && k0 + k + j < k_end) held[n][j] = *reinterpret_cast<const u32*>(p + j * k_stride);
          }
        }
      }
    }
  }

  static __forceinline__ u32 element(T x) {
    if constexpr (same<T, f32> && same<S, bf16>) return bf16_bits(x);
    else if constexpr (E == 1) return static_cast<u8>(x);
    else return x.bits;
  }

  __forceinline__ void store(char* to) const {
    if constexpr (MODE == kPacks || MODE == kTransposed) {
#pragma unroll
      for (int n = 0; n < COUNT; n++) {
        const int i = n * THREADS + threadIdx.x;
        if (UNITS % THREADS != 0 && i >= UNITS) break;
        int r, k;
        unit_at(i, r, k);
        if constexpr (MODE == kTransposed) {
          const u32(&x)[4] = held[n];
          const u32 low01 = __byte_perm(x[0], x[1], 0x5140), high01 = __byte_perm(x[0], x[1], 0x7362);
          const u32 low23 = __byte_perm(x[2], x[3], 0x5140), high23 = __byte_perm(x[2], x[3], 0x7362);
          const u32 y[4] = {__byte_perm(low01, low23, 0x5410), __byte_perm(low01, low23, 0x7632), __byte_perm(high01, high23, 0x5410),
                            __byte_perm(high01, high23, 0x7632)};
#pragma unroll
          for (int j = 0; j < 4; j++) *reinterpret_cast<u32*>(to + word_at(r + j, k)) = y[j];
        } else {
          constexpr int WORDS = V / PER_WORD;
          Pack<u32, WORDS> words{};
#pragma unroll
          for (int v = 0; v < V; v++) words.at[v / PER_WORD] |= element(held[n].at[v]) << (8 * E * (v % PER_WORD));
          store_pack(reinterpret_cast<u32*>(to + word_at(r, k)), words);
        }
      }
    }
  }
};
