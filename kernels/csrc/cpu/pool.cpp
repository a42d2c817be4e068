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
constexpr int kYieldAfter = 200;

// The state of the current job in one word, so that an index is claimed together with the job it belongs to: a worker that
// wakes up late finds another number and claims nothing. Job number, count of indices, next index.
constexpr int kIndexBits = 18;
constexpr uint64_t kMostIndices = (uint64_t{1} << kIndexBits) - 1;
uint64_t number_of(uint64_t ticket) { return ticket >> (2 * kIndexBits); }
uint64_t count_of(uint64_t ticket) { return ticket >> kIndexBits & kMostIndices; }
uint64_t index_of(uint64_t ticket) { return ticket & kMostIndices; }

pthread_mutex_t callers = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
std::atomic<uint64_t> ticket{0};
std::atomic<uint64_t> finished{0};  // indices of the current job
std::atomic<int> sleepers{0};
std::atomic<int> helpers{0};        // workers that the current job may have
Task task;                          // of the current job; stays until all its indices are finished
void* context;
int64_t offset;
std::atomic<Fork> borrowed{nullptr};
int started = 0;
bool fork_handled = false;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    sched_yield();
#endif
}

// Works on the current job until no index of it is left.
void work() {
    for (uint64_t now = ticket.load(std::memory_order_acquire); index_of(now) < count_of(now);) {
        if (!ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
        task(context, offset + static_cast<int64_t>(index_of(now)));
        finished.fetch_add(1, std::memory_order_release);
        now = ticket.load(std::memory_order_acquire);
    }
}

// Returns the number of a job later than `seen`: awake for a while, then asleep.
uint64_t next_job(uint64_t seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
        const uint64_t now = number_of(ticket.load(std::memory_order_acquire));
        if (now != seen) return now;
        relax();
    }
    pthread_mutex_lock(&sleep_lock);
    sleepers.fetch_add(1);
    while (number_of(ticket.load()) == seen) pthread_cond_wait(&wake, &sleep_lock);
    sleepers.fetch_sub(1);
    pthread_mutex_unlock(&sleep_lock);
    return number_of(ticket.load());
}

void* help(void* rank) {
    uint64_t seen = 0;
    for (;;) {
        seen = next_job(seen);
        if (static_cast<int>(reinterpret_cast<intptr_t>(rank)) < helpers.load(std::memory_order_relaxed)) work();
    }
    return nullptr;
}

// A child process has none of its parent's threads: it starts its own.
void forget_workers() {
    started = 0;
    ticket = 0;  // a job of the parent's is none of this process
    sleepers = 0;
    pthread_mutex_init(&callers, nullptr);
    pthread_mutex_init(&sleep_lock, nullptr);
    pthread_cond_init(&wake, nullptr);
}

// Fewer where the system gives no more threads: the caller does what they would have done.
void start_workers(int wanted) {
    if (!fork_handled) {
        pthread_atfork(nullptr, nullptr, forget_workers);
        fork_handled = true;
    }
    for (; started < wanted && started < kMaxWorkers; ++started) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &attributes, help, reinterpret_cast<void*>(static_cast<intptr_t>(started)));
        pthread_attr_destroy(&attributes);
        if (failed) return;
    }
}

void run(uint64_t count) {
    finished.store(0);
    const uint64_t number = number_of(ticket.load()) + 1;
    ticket.store((number << kIndexBits | count) << kIndexBits, std::memory_order_release);
    if (sleepers.load() > 0) {
        pthread_mutex_lock(&sleep_lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleep_lock);
    }
    work();
    for (int spin = 0; finished.load(std::memory_order_acquire) < count; ++spin) {
        if (spin < kYieldAfter) {
            relax();
        } else {
            sched_yield();  // a worker lost its core to another process: do not keep this one from it
        }
    }
}

// The same for threads that all begin and end together.
struct Team {
    Task task;
    void* context;
    int64_t count;
    std::atomic<int64_t> next;

    static void join(void* team) {
        Team& t = *static_cast<Team*>(team);
        for (int64_t i = t.next.fetch_add(1); i < t.count; i = t.next.fetch_add(1)) t.task(t.context, i);
    }
};

}  // namespace

void borrow_threads(Fork fork) { borrowed.store(fork); }

void parallel(Work kind, int threads, int64_t count, Task wanted, void* data) {
    Team team{wanted, data, count, {0}};
    threads = static_cast<int>(count < threads ? count : threads);
    if (threads <= 1) return Team::join(&team);
    if (const Fork fork = kind == Work::kLong ? borrowed.load() : nullptr) return fork(Team::join, &team, static_cast<unsigned>(threads), 0);
    pthread_mutex_lock(&callers);
    const int64_t most = static_cast<int64_t>(kMostIndices);
    start_workers(threads - 1);
    helpers = threads - 1;
    task = wanted;
    context = data;
    for (offset = 0; offset < count; offset += most) run(static_cast<uint64_t>(count - offset < most ? count - offset : most));
    pthread_mutex_unlock(&callers);
}

}  // namespace omniq
