// How a call reaches the device: every failure has a code and a sentence. See api.cu.

#pragma once

#include <cuda_runtime.h>

#include "problem.h"

namespace omniq {

constexpr int kDone = 0;
constexpr int kBadArgument = -1;  // positive codes are cudaError_t

int failed(int code, const char* sentence);

// Starts a kernel on the call's device and stream; neither waits nor allocates, so that it can be captured in a graph.
int launched(const void* kernel, dim3 grid, dim3 block, void** arguments, int device, void* stream, const char* name);

int wna16_decode(const Call& call);
int wna16_gemm(const Call& call);
int wna16_dequantize(const Call& call);
int w4a4_gemm(const CodesCall& call);

int decode_warps(const Weight& weight, int multiprocessors);
int gemm_splits(const Weight& weight, int64_t rows, int multiprocessors);

constexpr int kDecodeRows = 8;  // tokens that one tensor-core product takes

}  // namespace omniq
