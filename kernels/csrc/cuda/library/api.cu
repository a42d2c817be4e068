// The C entry points. Each checks its call, starts kernels on the stream it was given and returns: 0, a negative code
// for a bad argument, or the positive code of the CUDA runtime; omniq_cuda_error() then holds the sentence.

#include <cstdio>

#include "launch.h"
#include "unpack.h"

#define OMNIQ_EXPORT extern "C" __attribute__((visibility("default")))

namespace omniq {
namespace {

thread_local char sentence[256] = "";

// Makes the call's device current, for as long as it lives.
class Device {
  public:
    explicit Device(int wanted)
        : status_(cudaGetDevice(&before_)), changed_(status_ == cudaSuccess && before_ != wanted) {
        if (changed_) status_ = cudaSetDevice(wanted);
    }
    ~Device() {
        if (changed_) cudaSetDevice(before_);
    }
    cudaError_t status() const { return status_; }

  private:
    int before_ = 0;
    cudaError_t status_;
    bool changed_;
};

bool is_type(int type) { return type == kFloat32 || type == kBFloat16 || type == kFloat16; }
bool is_aligned(const void* p, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

const char* weight_fault(const Weight& w, int64_t group_step) {
    if (!w.codes || !w.scales) return "the weight's codes or scales are missing";
    if (!is_aligned(w.codes, 16) || !is_aligned(w.scales, 16) || !is_aligned(w.high, 8) || !is_aligned(w.zeros, 4))
        return "a weight tensor is not aligned to 16 bytes";
    if (w.bits != 2 && w.bits != 3 && w.bits != 4 && w.bits != 8) return "weights are stored in 2, 3, 4 or 8 bits";
    if ((w.bits == 3) != (w.high != nullptr)) return "the top bits belong to 3-bit weights, and to them alone";
    if (w.outputs < 1 || w.columns < 1 || w.columns > static_cast<int64_t>(kMaxSteps - 2) * kStep)
        return "the weight's shape is empty or too large";
    if (units(w.outputs) > INT32_MAX) return "the weight has too many rows";
    if (w.group < 0 || w.group % group_step) return "the group is no multiple of the kernel's step";
    if (!is_type(w.scale_type)) return "the scales' type is unknown";
    if (w.mid < 0 || w.mid > 255) return "the middle code is not a byte";
    return nullptr;
}

const char* fault(const Call& c, bool takes_x) {
    if (const char* reason = weight_fault(c.weight, kStep)) return reason;
    if (!c.y || !is_type(c.y_type)) return "the output is missing or its type is unknown";
    if (c.multiprocessors < 1) return "the number of multiprocessors is not positive";
    if (!takes_x)
        return c.weight.columns % 8   ? "K is no multiple of 8"
               : !is_aligned(c.y, 16) ? "the output is not aligned to 16 bytes"
                                      : nullptr;
    if (!c.x || (c.x_type != kFloat16 && c.x_type != kBFloat16))
        return "activations are missing, or neither float16 nor bfloat16";
    if (!is_aligned(c.x, 16) || c.stride % 8 || c.weight.columns % 8)
        return "activations are not aligned to 16 bytes, or K is no multiple of 8";
    if (c.stride < c.weight.columns) return "rows of activations overlap";
    if (c.rows < 1) return "there are no tokens";
    return nullptr;
}

__global__ void nothing() {}

template <class C, class Run>
int checked(const C* call, const char* reason, Run run) {
    return reason ? failed(kBadArgument, reason) : run(*call);
}

template <int kBits, bool kBrain>
void unpack_lane(const uint32_t* words, const uint32_t* high, uint32_t zeros, int s, uint32_t* out) {
    for (int r = 0; r < 2; ++r) {
        uint32_t magic[8];
        magic_pairs<kBits, kBrain>(kBits == 4 ? words + 2 * r : words + 2 * s + r, kBits == 3 ? high[r] : 0, s, magic);
        for (int p = 0; p < 8; ++p, out += 3) {
            const int j = exponent<kBits, kBrain>(p);
            out[0] = magic[p];
            out[1] = Format<kBrain>::factor(j);
            out[2] = offset_pair(zeros << (2 * j), 2 * r + p % 2, Format<kBrain>::offset(j));
        }
    }
}

}  // namespace

int failed(int code, const char* reason) {
    std::snprintf(sentence, sizeof sentence, "%s", reason);
    return code;
}

// A call that failed leaves its code behind for the next caller of the runtime, who would take it for his own.
int reported(cudaError_t status, const char* name) {
    if (status == cudaSuccess) return kDone;
    char text[200];
    std::snprintf(text, sizeof text, "%s: %s (%s)", name, cudaGetErrorString(status), cudaGetErrorName(status));
    cudaGetLastError();
    return failed(status, text);
}

int launched(const void* kernel, dim3 grid, dim3 block, void** arguments, int device, void* stream, const char* name) {
    const Device guard(device);
    cudaError_t status = guard.status();
    if (status == cudaSuccess)
        status = cudaLaunchKernel(kernel, grid, block, arguments, 0, static_cast<cudaStream_t>(stream));
    return reported(status, name);
}

int ready(int device) {
    const Device guard(device);
    cudaFuncAttributes attributes;
    cudaError_t status = guard.status();
    if (status == cudaSuccess) status = cudaFuncGetAttributes(&attributes, nothing);
    return reported(status, "device");
}

}  // namespace omniq

using omniq::Call;
using omniq::CodesCall;

OMNIQ_EXPORT const char* omniq_cuda_error() { return omniq::sentence; }

// 1000 * major + 10 * minor of the CUDA toolkit it was built with.
OMNIQ_EXPORT int omniq_cuda_toolkit() { return CUDART_VERSION; }

// 0 where the driver and the device can run what was built.
OMNIQ_EXPORT int omniq_cuda_ready(int device) { return omniq::ready(device); }

// Bytes of the two structures, for a caller that writes them down in another language.
OMNIQ_EXPORT int omniq_cuda_call_size() { return sizeof(Call); }
OMNIQ_EXPORT int omniq_cuda_codes_call_size() { return sizeof(CodesCall); }

OMNIQ_EXPORT int omniq_cuda_decode_warps(const Call* c) { return omniq::decode_warps(c->weight, c->multiprocessors); }
OMNIQ_EXPORT int omniq_cuda_splits(const Call* c) { return omniq::gemm_splits(c->weight, c->rows, c->multiprocessors); }
OMNIQ_EXPORT int omniq_cuda_group(int64_t group, int step) {
    return omniq::group_of(step, omniq::group_reciprocal(group));
}

// At most 8 tokens.
OMNIQ_EXPORT int omniq_cuda_decode(const Call* c) {
    const char* reason = omniq::fault(*c, true);
    if (!reason && c->rows > omniq::kDecodeRows) reason = "the decode kernel takes at most 8 tokens";
    return omniq::checked(c, reason, omniq::wna16_decode);
}

// Any number of tokens; weights of 2, 3 or 4 bits.
OMNIQ_EXPORT int omniq_cuda_gemm(const Call* c) {
    const char* reason = omniq::fault(*c, true);
    if (!reason && c->weight.bits == 8) reason = "the matrix-matrix kernel takes weights of 2, 3 and 4 bits";
    if (!reason && (c->splits < 1 || c->splits > 65535 || (c->splits > 1 && !c->partial)))
        reason = "the parts of K have no memory for their sums";
    if (!reason && c->rows > 65535 * 16) reason = "there are too many tokens for one call";
    return omniq::checked(c, reason, omniq::wna16_gemm);
}

// y (N, K) in y_type.
OMNIQ_EXPORT int omniq_cuda_dequantize(const Call* c) {
    return omniq::checked(c, omniq::fault(*c, false), omniq::wna16_dequantize);
}

OMNIQ_EXPORT int omniq_cuda_w4a4(const CodesCall* c) {
    const char* reason = omniq::weight_fault(c->weight, 64);
    if (!reason && c->weight.bits != 4) reason = "codes are stored in 4 bits";
    if (!reason && (!c->x || !c->y || !c->x_scales || !omniq::is_aligned(c->x, 16)))
        reason = "activations, their scales or the output are missing or not aligned";
    if (!reason && c->x_shifts && !c->row_sums)
        reason = "zero points of activations need the sums of the weight's rows";
    if (!reason && !omniq::is_type(c->y_type)) reason = "the output's type is unknown";
    if (!reason && (c->rows < 1 || c->rows > 65535 * 64)) reason = "there are no tokens, or too many for one call";
    return omniq::checked(c, reason, omniq::w4a4_gemm);
}

// On the host, what the kernels do with one lane's words: for each register (r, 4i + 2c + h) the magic pair, the factor
// and the offset whose fused multiply-add is the operand. 48 words.
OMNIQ_EXPORT int omniq_cuda_unpack(int bits, int brain, const uint32_t* words, const uint32_t* high, uint32_t zeros,
                                   int s, uint32_t* out) {
    using omniq::unpack_lane;
    switch (2 * bits + (brain != 0)) {
        case 4: unpack_lane<2, false>(words, high, zeros, s, out); break;
        case 5: unpack_lane<2, true>(words, high, zeros, s, out); break;
        case 6: unpack_lane<3, false>(words, high, zeros, s, out); break;
        case 7: unpack_lane<3, true>(words, high, zeros, s, out); break;
        case 8: unpack_lane<4, false>(words, high, zeros, s, out); break;
        case 9: unpack_lane<4, true>(words, high, zeros, s, out); break;
        default: return omniq::failed(omniq::kBadArgument, "only 2, 3 and 4 bits are unpacked by magic numbers");
    }
    return omniq::kDone;
}
