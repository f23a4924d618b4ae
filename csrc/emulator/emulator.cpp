// The emulator's scheduler: one block after the other, and in it each thread until it waits.

#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda.h"
#include "fibers.h"

namespace distgan::emulator {

const Thread* current = nullptr;
Settings settings;
Counters counters;

namespace {

constexpr unsigned WARP = 32;

// Threads that wait for each other. The last to arrive opens the next generation.
struct Group {
    unsigned size = 0, arrived = 0, generation = 0;
};

struct Warp {
    Group group;
    uint64_t
        slots[2][WARP];  // by turns, so that a quick lane's next shuffle does not overwrite what a slow one still reads
};

struct EmulatedThread {
    Thread identity;
    Fiber fiber;
    const Group* awaited = nullptr;
    unsigned generation = 0;  // of `awaited`, when the wait began
    bool done = false;

    bool is_blocked() const { return awaited && awaited->generation == generation; }
};

std::vector<EmulatedThread> threads;
std::vector<Warp> warps;
Group block_group;
std::unique_ptr<unsigned char[]> shared;
const std::function<void()>* kernel_body = nullptr;
std::exception_ptr failure;
EmulatedThread* running = nullptr;

void thread_main() {
    try {
        (*kernel_body)();
    } catch (...) {
        failure = std::current_exception();  // nothing may unwind past the bottom of a fiber
    }
    running->done = true;
    running->fiber.leave_for_good();
}

void wait(Group& group) {
    if (++group.arrived == group.size) {
        group.arrived = 0;
        ++group.generation;
        return;
    }
    running->awaited = &group;
    running->generation = group.generation;
    running->fiber.leave();
}

void run_block(unsigned block, unsigned num_blocks, unsigned num_threads, size_t shared_bytes) {
    shared.reset(new unsigned char[shared_bytes]);  // of this size, so that the sanitizer knows where it ends
    memset(shared.get(), 0xFF, shared_bytes);       // NaN to a kernel that reads before it writes
    block_group = {num_threads};
    warps.assign(num_threads / WARP, {});
    for (Warp& warp : warps) warp.group.size = WARP;
    if (threads.size() < num_threads) threads = std::vector<EmulatedThread>(num_threads);
    for (unsigned number = 0; number < num_threads; ++number) {
        EmulatedThread& thread = threads[number];
        thread.identity = {{number}, {block}, {num_threads}, {num_blocks}};
        thread.awaited = nullptr;
        thread.done = false;
        thread.fiber.prepare(thread_main);
    }
    for (unsigned unfinished = num_threads; unfinished > 0;) {
        bool progress = false;
        for (unsigned position = 0; position < num_threads; ++position) {
            EmulatedThread& thread = threads[settings.reversed ? num_threads - 1 - position : position];
            if (thread.done || thread.is_blocked()) continue;
            progress = true;
            running = &thread;
            current = &thread.identity;
            thread.fiber.enter();
            if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
            if (thread.done) --unfinished;
        }
        if (!progress)
            throw std::runtime_error(
                "The kernel hangs: not all threads of a block reach a barrier that others wait at.");
    }
}

}  // namespace

unsigned char* shared_bytes() { return shared.get(); }

void wait_for_block() {
    if (running->identity.thread.x == 0) ++counters.barriers;
    wait(block_group);
}

uint64_t exchange(uint64_t bits, unsigned lane) {
    Warp& warp = warps[running->identity.thread.x / WARP];
    uint64_t* slots = warp.slots[warp.group.generation % 2];
    slots[running->identity.thread.x % WARP] = bits;
    wait(warp.group);
    return slots[lane];
}

void run(const std::function<void()>& kernel, unsigned num_blocks, unsigned num_threads, size_t shared_bytes) {
    if (num_threads == 0 || num_threads > 1024 || num_threads % WARP != 0) {
        throw std::runtime_error("A block has whole warps and at most 1024 threads.");
    }
    if (num_blocks == 0) throw std::runtime_error("A grid has at least one block.");
    ++counters.launches;
    kernel_body = &kernel;
    try {
        for (unsigned position = 0; position < num_blocks; ++position) {
            ++counters.blocks;
            run_block(settings.reversed ? num_blocks - 1 - position : position, num_blocks, num_threads, shared_bytes);
        }
    } catch (...) {
        threads.clear();  // some stand in the middle of the kernel
        throw;
    }
}

}  // namespace distgan::emulator
