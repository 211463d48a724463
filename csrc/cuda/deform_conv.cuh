// Deformable convolution as a matrix product: conv_tile_core.cuh with tiles sampled by deform_input.cuh.
#pragma once
#include "deform_input.cuh"
// of which this makes a kernel:
#include "conv_tile_core.cuh"

// At most 128 registers: 512 threads of a multiprocessor at least.
extern "C" __global__ void __launch_bounds__(BLOCK, 512 / BLOCK) deform_conv(const __grid_constant__ Args a) { compute_tile(a); }
