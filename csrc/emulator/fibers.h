// A function that runs on a stack of its own and can be left in the middle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#if defined(__x86_64__) && !defined(DISTGAN_EMULATOR_UCONTEXT)

// swapcontext asks the kernel for the signal mask at every switch; this only saves what a called function has to
// preserve.
extern "C" __attribute__((visibility("hidden"))) void distgan_switch_stacks(void** from, void* to);
asm(R"(
    .pushsection .text
    .globl distgan_switch_stacks
    .hidden distgan_switch_stacks
    .type distgan_switch_stacks, @function
distgan_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size distgan_switch_stacks, . - distgan_switch_stacks
    .popsection
)");

namespace distgan::emulator {

using Context = void*;  // the stack's top; the registers lie on it

inline void switch_context(Context& from, const Context& to) { distgan_switch_stacks(&from, to); }

inline void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*function)()) {
    auto** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) / 16 * 16);
    *--top = nullptr;  // where `function` would return to: it never does
    *--top = reinterpret_cast<void*>(function);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    context = top;
}

}  // namespace distgan::emulator

#else

#include <ucontext.h>

namespace distgan::emulator {

using Context = ucontext_t;

inline void switch_context(Context& from, const Context& to) { swapcontext(&from, &to); }

inline void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*function)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, function, 0);
}

}  // namespace distgan::emulator

#endif

namespace distgan::emulator {

// The sanitizer is told of every switch: it keeps account of what is valid on the stack that is in use.
class Fiber {
 public:
    // From now on `enter` begins `function` afresh, which has to end with `leave_for_good`.
    void prepare(void (*function)()) {
        if (!stack_) stack_.reset(new unsigned char[STACK_BYTES]);
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(stack_.get(), STACK_BYTES);  // what an earlier function left, that never returned
#endif
        function_ = function;
        prepare_context(inside_, stack_.get(), STACK_BYTES, &Fiber::begin);
    }

    // Runs the function until it leaves.
    void enter() {
        entered_ = this;
#ifdef __SANITIZE_ADDRESS__
        void* mine = nullptr;
        __sanitizer_start_switch_fiber(&mine, stack_.get(), STACK_BYTES);
#endif
        switch_context(outside_, inside_);
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#endif
    }

    void leave() { leave(&sanitizer_stack_); }

    void leave_for_good() { leave(nullptr); }

 private:
    static constexpr size_t STACK_BYTES = 256 * 1024;  // a table of 32 KB is an argument; the sanitizers copy it

    static void begin() {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(nullptr, &entered_->outside_stack_, &entered_->outside_stack_bytes_);
#endif
        entered_->function_();
    }

    void leave([[maybe_unused]] void** sanitizer_stack) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(sanitizer_stack, outside_stack_, outside_stack_bytes_);
#endif
        switch_context(inside_, outside_);
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(sanitizer_stack_, &outside_stack_, &outside_stack_bytes_);
#endif
    }

    inline static Fiber* entered_ = nullptr;
    std::unique_ptr<unsigned char[]> stack_;
    void (*function_)() = nullptr;
    Context inside_{}, outside_{};
    void* sanitizer_stack_ = nullptr;
    const void* outside_stack_ = nullptr;
    size_t outside_stack_bytes_ = 0;
};

}  // namespace distgan::emulator
