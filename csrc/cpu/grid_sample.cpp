// GridSample: grid_sample_taps.cpp, with this level's rows.
#include "cpu/kernels.h"
#include "cpu/resample_rows.h"

namespace ptrt::PTRT_LEVEL {

std::unique_ptr<Kernel> make_grid_sample(LaunchDesc desc, BindContext&) {
  return PTRT_PLAIN::grid_sample_of(std::move(desc), {weighted_rows<float>, nullptr}, {weighted_rows<double>, nullptr});
}

}  // namespace ptrt::PTRT_LEVEL
