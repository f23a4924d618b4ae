// Work of the CPU operators, cut into tasks by the shapes alone, so that no result depends on the number of threads.
#pragma once

#include <atomic>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "portable.h"
#include "tensors.h"

namespace distgan {

// A thread's share of the tasks; whoever runs out of its own takes from the others'. A cache line each.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
};

// What this thread has written past the caches is there for others to read.
inline void finish_streams() {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

// Calls `function(number)` for every task. Each thread begins with consecutive tasks of its own, the same in every call
// of the same shapes: what it read or wrote in the last one may still be in its caches. Then it helps the others, so
// that unequal tasks balance. `num_elements` of all tasks says how many threads are worth waking.
template <class Function>
void for_each_task(int64_t num_tasks, int64_t num_elements, const Function& function) {
    constexpr int64_t ELEMENTS_PER_THREAD = 32 * 1024;
    const int64_t most = smaller(num_tasks, int64_t(torch::stable::get_num_threads()));
    const int64_t num_threads = smaller(most, larger(int64_t(1), num_elements / ELEMENTS_PER_THREAD));
    if (num_threads <= 1) {
        for (int64_t number = 0; number < num_tasks; ++number) function(number);
        finish_streams();
        return;
    }
    std::vector<Share> shares(num_threads);
    for (int64_t thread = 0; thread < num_threads; ++thread) {
        shares[thread].next = num_tasks * thread / num_threads;
        shares[thread].end = num_tasks * (thread + 1) / num_threads;
    }
    torch::stable::parallel_for(0, num_threads, 1, [&](int64_t thread, int64_t) {
        for (int64_t other = 0; other < num_threads; ++other) {
            Share& share = shares[(thread + other) % num_threads];
            for (int64_t number; (number = share.next++) < share.end;) function(number);
        }
        finish_streams();
    });
}

}  // namespace distgan
