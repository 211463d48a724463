// Convolution as an implicit matrix product on CUDA cores: conv_tile_core.cuh with tiles gathered by conv_input.cuh.
#pragma once
#include "conv_input.cuh"
// of which this makes a kernel:
#include "conv_tile_core.cuh"

// At most 128 registers: 512 threads of a multiprocessor at least.
extern "C" __global__ void __launch_bounds__(BLOCK, 512 / BLOCK) conv_tile(const __grid_constant__ Args a) { compute_tile(a); }
