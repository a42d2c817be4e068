// Coroutines for the threads of a block, and what they wait for: see cuda_runtime.h.

#include "cuda_runtime.h"

#include <ucontext.h>

#include <cstring>
#include <vector>

#include "ptx.cuh"

dim3 threadIdx, blockIdx, blockDim, gridDim;
char shared_origin;

namespace {

constexpr size_t kStack = 1 << 17;
constexpr int kMostThreads = 512;

struct Copy {
    uint32_t to;
    const void* from;
    int bytes;
};
struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(kStack);
    std::vector<std::vector<Copy>> groups;  // committed copies, the oldest first
    std::vector<Copy> open;
    long waits = 0;   // times it has arrived at a barrier of its block
    long trades = 0;  // times it has arrived at a product of its warp
    bool done = false;
};

Thread threads[kMostThreads];
Part parts[kMostThreads / 32][2][32];  // of two products in turn: a lane may be one ahead of those that still read
ucontext_t scheduler;
int count, current;
void (*body)(void* const*);
void* const* passed;

void enter() {
    body(passed);
    threads[current].done = true;
    swapcontext(&threads[current].context, &scheduler);
}
void yield() {
    const int me = current;
    swapcontext(&threads[me].context, &scheduler);
}

// Waits until every thread of [first, last) that still runs has arrived as often as this one.
void meet(int first, int last, long Thread::* arrivals) {
    const long mine = ++(threads[current].*arrivals);
    for (;;) {
        bool all = true;
        for (int i = first; i < last; ++i) all = all && (threads[i].done || threads[i].*arrivals >= mine);
        if (all) return;
        yield();
    }
}

long arrivals(int first) {
    long sum = 0;
    for (int i = first; i < first + 32; ++i) sum += threads[i].waits + threads[i].trades + threads[i].done;
    return sum;
}

// Lets the 32 threads of a warp go as far ahead of other warps as they can: what a barrier is missing for, shows.
long run_warp(int first, long& left) {
    const long start = arrivals(first);
    for (long before = -1; before != arrivals(first);) {
        before = arrivals(first);
        for (current = first; current < first + 32; ++current) {
            if (threads[current].done) continue;
            threadIdx.x = static_cast<unsigned>(current);
            swapcontext(&scheduler, &threads[current].context);
            left -= threads[current].done;
        }
    }
    return arrivals(first) - start;
}

bool run_block() {
    for (int i = 0; i < count; ++i) {
        Thread& t = threads[i];
        std::memset(t.stack.data(), 0xFF, kStack);
        t.groups.clear();
        t.open.clear();
        t.waits = t.trades = 0;
        t.done = false;
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.data();
        t.context.uc_stack.ss_size = kStack;
        t.context.uc_link = &scheduler;
        makecontext(&t.context, enter, 0);
    }
    for (long left = count; left;) {
        long progress = 0;
        for (int first = 0; first < count; first += 32) progress += run_warp(first, left);
        if (!progress) return false;
    }
    return true;
}

using Call = void (*)(omniq::Call, uint32_t);
using CodesCall = void (*)(omniq::CodesCall, int);
const void* started;
void call_floats(void* const* a) {
    reinterpret_cast<Call>(const_cast<void*>(started))(*static_cast<omniq::Call*>(a[0]), *static_cast<uint32_t*>(a[1]));
}
void call_codes(void* const* a) {
    reinterpret_cast<CodesCall>(const_cast<void*>(started))(*static_cast<omniq::CodesCall*>(a[0]),
                                                            *static_cast<int*>(a[1]));
}

}  // namespace

void __syncthreads() { meet(0, count, &Thread::waits); }

void exchange(const Part& mine, Part (&all)[32]) {
    const int warp = current / 32, turn = static_cast<int>(threads[current].trades % 2);
    parts[warp][turn][current % 32] = mine;
    meet(32 * warp, 32 * warp + 32, &Thread::trades);
    std::memcpy(all, parts[warp][turn], sizeof all);
}

void copy_now(const Copy& copy) {
    char* to = &shared_origin + static_cast<int32_t>(copy.to);
    std::memset(to, 0, 16);
    std::memcpy(to, copy.from, static_cast<size_t>(copy.bytes));
}
// Half of the copies arrive at once, which shows a place filled too early; half as late as they may, which shows a
// place read too early.
void copy_later(uint32_t to, const void* from, int bytes) {
    static unsigned number = 0;
    const Copy copy{to, from, bytes};
    if (++number % 2) {
        copy_now(copy);
    } else {
        threads[current].open.push_back(copy);
    }
}
void commit_later() {
    threads[current].groups.push_back(threads[current].open);
    threads[current].open.clear();
}
void wait_later(int left) {
    auto& groups = threads[current].groups;
    while (static_cast<int>(groups.size()) > left) {
        for (const Copy& copy : groups.front()) copy_now(copy);
        groups.erase(groups.begin());
    }
}

// The stream says which of the two structures the kernel takes: 0 or 1.
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t stream) {
    started = kernel;
    body = stream ? call_codes : call_floats;
    passed = arguments;
    gridDim = grid;
    blockDim = block;
    count = static_cast<int>(block.x);
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                if (count > kMostThreads || !run_block()) return 1;
    return cudaSuccess;
}
