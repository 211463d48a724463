// RoiAlign: roi_align_bins.cpp, with this level's rows.
#include "cpu/kernels.h"
#include "cpu/lanes.h"
#include "cpu/resample_rows.h"

namespace ptrt::PTRT_LEVEL {

namespace {

template <class C>
void greatest_rows(C* out, int64_t n, const C* x, const int64_t* at, const C* weight, int64_t taps, bool more) {
  using V = typename Lanes<C>::V;
  constexpr int L = Lanes<C>::n;
  for (int64_t i = 0; i < n; i += L) {
    int left = L;
    if (i + L > n && n >= L && !more) i = n - L;  // a few elements twice
    else if (i + L > n) left = static_cast<int>(n - i);
    V m = more ? load_n(out + i, left) : splat(weight[0]) * load_n(x + at[0] + i, left);
    auto nan = m != m;
    for (int64_t t = more ? 0 : 1; t < taps; t++) {
      const V v = splat(weight[t]) * load_n(x + at[t] + i, left);
      nan |= v != v;
      m = vmax(v, m);
    }
    store_n(out + i, nan ? m + __builtin_nan("") : m, left);
  }
}

}  // namespace

std::unique_ptr<Kernel> make_roi_align(LaunchDesc desc, BindContext&) {
  return PTRT_PLAIN::roi_align_of(std::move(desc), {weighted_rows<float>, greatest_rows<float>},
                                  {weighted_rows<double>, greatest_rows<double>});
}

}  // namespace ptrt::PTRT_LEVEL
