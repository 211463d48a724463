// Determinants by Gaussian elimination with partial pivoting in f64, one block per matrix, which lies in shared memory where it fits and in
// scratch otherwise. Each step is a search for the pivot in a column (a tree; of equal magnitudes the first), then an update of the rest,
// in parallel over its elements. Rejected: blocked elimination with matrix products, as the operator is for small matrices.
#pragma once

// 4 blocks: more registers than the compiler would allow itself, which then spills.
extern "C" __global__ void __launch_bounds__(THREADS, 4) determinant(const __grid_constant__ Args a) {
  extern __shared__ f64 held[];
  __shared__ f64 magnitude[THREADS];
  __shared__ int place[THREADS];
  const int n = a.n, thread = threadIdx.x, threads = blockDim.x, lane = thread % 32, warp = thread / 32, warps = threads / 32;
  const Idx matrix = static_cast<Idx>(blockIdx.x);
  f64* m = IN_SHARED ? held : a.work + matrix * n * n;
  Idx c[RANK] = {};
  unravel<0, RANK>(matrix, a.size, c);
  const Idx from = at_x(a, c);
  for (int i = warp; i < n; i += warps)
    for (int j = lane; j < n; j += 32)
      m[static_cast<Idx>(i) * n + j] = static_cast<f64>(value_of(a.x_data[from + i * a.row + j * a.column]));
  __syncthreads();
  f64 det = 1;
  for (int k = 0; k < n; k++) {
    f64 most = -1;
    int best = n;
    for (int i = k + thread; i < n; i += threads) {
      const f64 v = ::fabs(m[static_cast<Idx>(i) * n + k]),
                size = v == v ? v : static_cast<f64>(inf32());  // a NaN is a pivot: it spoils all
      if (size > most) {
        most = size;
        best = i;
      }
    }
    magnitude[thread] = most;
    place[thread] = best;
    __syncthreads();
    for (int step = threads / 2; step > 0; step /= 2) {
      if (thread < step) {
        const f64 other = magnitude[thread + step];
        if (other > magnitude[thread] || (other == magnitude[thread] && place[thread + step] < place[thread])) {
          magnitude[thread] = other;
          place[thread] = place[thread + step];
        }
      }
      __syncthreads();
    }
    const int pivot = place[0];
    const f64 head = m[static_cast<Idx>(pivot) * n + k];
    if (head == 0) {  // the same for all threads
      det = 0;
      break;
    }
    det *= pivot == k ? head : -head;
    __syncthreads();  // place and the column were read
    if (pivot != k)
      for (int j = k + thread; j < n; j += threads) {
        const f64 t = m[static_cast<Idx>(k) * n + j];
        m[static_cast<Idx>(k) * n + j] = m[static_cast<Idx>(pivot) * n + j];
        m[static_cast<Idx>(pivot) * n + j] = t;
      }
    __syncthreads();
    for (int i = k + 1 + warp; i < n; i += warps) {
      f64* row = m + static_cast<Idx>(i) * n;
      const f64 f = row[k] / head;
      for (int j = k + 1 + lane; j < n; j += 32) row[j] -= f * m[static_cast<Idx>(k) * n + j];
    }
    __syncthreads();
  }
  if (thread == 0) a.y_data[at_y(a, c)] = stored<Y>(op::cast<Y, f64>(det));
}
