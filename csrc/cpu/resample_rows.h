// Sums and maxima of rows, which grid_sample and roi_align spend their time in. These two kernels are linked once, for the lowest level;
// only the functions on rows are compiled for every level and handed over.
#pragma once
#include "core/launch.h"
#include "cpu/simd.h"

namespace ptrt {

template <class C>
struct RowFunctions {
  // out[i] = sum over t < taps of weight[t] * (x + at[t] * pitch)[i], i < n, times `scale`; `add`: added to out[i].
  void (*sum)(C* out, int64_t n, const C* x, const int64_t* at, int64_t pitch, const C* weight, int64_t taps, C scale, bool add);
  // out[i] = the maximum of weight[t] * (x + at[t])[i], NaN if one of them is; `more`: of out[i], too.
  void (*greatest)(C* out, int64_t n, const C* x, const int64_t* at, const C* weight, int64_t taps, bool more);
};

namespace PTRT_LEVEL {

template <class C>
void weighted_rows(C* out, int64_t n, const C* x, const int64_t* at, int64_t pitch, const C* weight, int64_t taps, C scale, bool add);
extern template void weighted_rows<float>(float*, int64_t, const float*, const int64_t*, int64_t, const float*, int64_t, float, bool);
extern template void weighted_rows<double>(double*, int64_t, const double*, const int64_t*, int64_t, const double*, int64_t, double, bool);

}  // namespace PTRT_LEVEL

namespace PTRT_PLAIN {

std::unique_ptr<Kernel> grid_sample_of(LaunchDesc desc, RowFunctions<float> f32, RowFunctions<double> f64);
std::unique_ptr<Kernel> roi_align_of(LaunchDesc desc, RowFunctions<float> f32, RowFunctions<double> f64);

}  // namespace PTRT_PLAIN
}  // namespace ptrt
