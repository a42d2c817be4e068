#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace omniq {
namespace {

constexpr int kMaxWorkers = 255;
constexpr int kSpins = 4000;  // about 50 microseconds awake: the next layer of a model usually comes within that

struct alignas(64) Worker {
    std::atomic<uint32_t> calls;  // how often it was called; it answers each call once
};

struct Job {
    Task task;
    void* context;
    int64_t count;
    std::atomic<int64_t> next;

    void work() {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(context, i);
    }
};

pthread_mutex_t callers = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
Worker workers[kMaxWorkers];
std::atomic<int> sleepers{0};
std::atomic<int> unfinished{0};
std::atomic<Fork> borrowed{nullptr};
Job* job;
int started = 0;
bool fork_handled = false;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    sched_yield();
#endif
}

// Returns when `calls` is no longer `seen`: awake for a while, then asleep.
uint32_t next_call(const std::atomic<uint32_t>& calls, uint32_t seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
        const uint32_t now = calls.load(std::memory_order_acquire);
        if (now != seen) return now;
        relax();
    }
    pthread_mutex_lock(&sleep_lock);
    sleepers.fetch_add(1);
    while (calls.load() == seen) pthread_cond_wait(&wake, &sleep_lock);
    sleepers.fetch_sub(1);
    pthread_mutex_unlock(&sleep_lock);
    return calls.load();
}

void* answer_calls(void* self) {
    const std::atomic<uint32_t>& calls = static_cast<Worker*>(self)->calls;
    uint32_t seen = 0;
    for (;;) {
        seen = next_call(calls, seen);
        job->work();
        unfinished.fetch_sub(1, std::memory_order_release);
    }
    return nullptr;
}

// A child process has none of its parent's threads: it starts its own.
void forget_workers() {
    started = 0;
    sleepers = 0;
    pthread_mutex_init(&callers, nullptr);
    pthread_mutex_init(&sleep_lock, nullptr);
    pthread_cond_init(&wake, nullptr);
}

// The number of workers there are, at most `wanted`: fewer where the system gives no more threads.
int ready_workers(int wanted) {
    if (!fork_handled) {
        pthread_atfork(nullptr, nullptr, forget_workers);
        fork_handled = true;
    }
    wanted = wanted < kMaxWorkers ? wanted : kMaxWorkers;
    for (; started < wanted; ++started) {
        workers[started].calls = 0;
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &attributes, answer_calls, &workers[started]);
        pthread_attr_destroy(&attributes);
        if (failed) return started;
    }
    return wanted;
}

void call(int count) {
    unfinished.store(count);
    for (int i = 0; i < count; ++i) workers[i].calls.fetch_add(1);
    if (sleepers.load() == 0) return;
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&sleep_lock);
}

void wait_for_workers() {
    for (int spin = 0; unfinished.load(std::memory_order_acquire) > 0; ++spin) {
        if (spin < kSpins) {
            relax();
        } else {
            sched_yield();  // a worker lost its core to another process: do not keep this one from it
        }
    }
}

}  // namespace

void borrow_threads(Fork fork) { borrowed.store(fork); }

void parallel(int threads, int64_t count, Task task, void* context) {
    Job mine{task, context, count, {0}};
    const int wanted = static_cast<int>(count < threads ? count : threads);
    if (wanted <= 1) return mine.work();
    if (const Fork fork = borrowed.load(std::memory_order_relaxed)) {
        return fork([](void* data) { static_cast<Job*>(data)->work(); }, &mine, static_cast<unsigned>(wanted), 0);
    }
    pthread_mutex_lock(&callers);
    job = &mine;
    call(ready_workers(wanted - 1));
    mine.work();
    wait_for_workers();
    pthread_mutex_unlock(&callers);
}

}  // namespace omniq
