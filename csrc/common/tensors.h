// What every binding needs of torch: the stable ABI's headers, checks that answer in a sentence, and questions about
// tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

// The emulator registers the CUDA implementations for tensors in host memory, in a namespace of its own.
#ifdef DISTGAN_EMULATOR
#define DISTGAN_NAMESPACE distgan_emulated
#define DISTGAN_CUDA_KEY CPU
#else
#define DISTGAN_NAMESPACE distgan
#define DISTGAN_CUDA_KEY CUDA
#endif

namespace distgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What a caller did wrong, as one sentence; Python sees a RuntimeError with just these words.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
    if (condition) return;
    std::ostringstream sentence;
    (sentence << ... << parts);
    throw std::runtime_error(sentence.str());
}

inline const char* name(ScalarType dtype) {
    switch (dtype) {
        case ScalarType::Byte:
            return "uint8";
        case ScalarType::Char:
            return "int8";
        case ScalarType::Short:
            return "int16";
        case ScalarType::Int:
            return "int32";
        case ScalarType::Long:
            return "int64";
        case ScalarType::Half:
            return "float16";
        case ScalarType::Float:
            return "float32";
        case ScalarType::Double:
            return "float64";
        case ScalarType::Bool:
            return "bool";
        case ScalarType::BFloat16:
            return "bfloat16";
        default:
            return "another dtype";
    }
}

// A tensor's shape in a sentence, [3, 4].
struct Shape {
    const Tensor& tensor;

    friend std::ostream& operator<<(std::ostream& stream, const Shape& shape) {
        stream << '[';
        for (int64_t dimension = 0; dimension < shape.tensor.dim(); ++dimension) {
            stream << (dimension ? ", " : "") << shape.tensor.size(dimension);
        }
        return stream << ']';
    }
};

inline Shape shape(const Tensor& tensor) { return {tensor}; }

inline bool have_same_shape(const Tensor& tensor, const Tensor& other) {
    if (tensor.dim() != other.dim()) return false;
    for (int64_t dimension = 0; dimension < tensor.dim(); ++dimension) {
        if (tensor.size(dimension) != other.size(dimension)) return false;
    }
    return true;
}

// An argument in a sentence: u, or weights[3]. Put into words only if there is something to complain of.
struct Argument {
    const char* name;
    int64_t position = -1;  // in a list

    Argument(const char* argument) : name(argument) {}  // NOLINT: a plain name is one
    Argument(const char* list, size_t element) : name(list), position(int64_t(element)) {}

    friend std::ostream& operator<<(std::ostream& stream, const Argument& argument) {
        stream << argument.name;
        return argument.position < 0 ? stream : stream << '[' << argument.position << ']';
    }
};

inline bool is_fp32_or_bf16(const Tensor& tensor) {
    return tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::BFloat16;
}

inline void require_fp32_or_bf16(const Argument& what, const Tensor& tensor) {
    require(is_fp32_or_bf16(tensor), what, " is ", name(tensor.scalar_type()),
            ", but this operator takes float32 or bfloat16.");
}

inline void require_fp32(const Argument& what, const Tensor& tensor) {
    require(tensor.scalar_type() == ScalarType::Float, what, " is ", name(tensor.scalar_type()),
            ", but it has to be float32.");
}

inline void require_contiguous(const Argument& what, const Tensor& tensor, bool is_written = false) {
    require(tensor.is_contiguous(), what, is_written ? " is written through and has" : " has",
            " to be contiguous; pass ", what, ".contiguous()", is_written ? " and copy back." : ".");
}

// Kernels count with 32 bits.
inline void require_countable(const Argument& what, const Tensor& tensor) {
    require(tensor.numel() <= std::numeric_limits<int32_t>::max(), what, " has ", tensor.numel(),
            " elements, but one tensor may have at most 2147483647; split it.");
}

inline void require_same_device(const Argument& what, const Tensor& tensor, const Argument& other_what,
                                const Tensor& other) {
    require(tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index(), what, " and ",
            other_what, " are on different devices; move them to one.");
}

// Whether the elements fill their memory without gaps, in whatever order of dimensions: then a loop over memory visits
// each once.
inline bool is_dense(const Tensor& tensor) {
    if (tensor.is_contiguous()) return true;
    int64_t expected = 1;
    std::vector<bool> used(tensor.dim(), false);
    for (int64_t step = 0; step < tensor.dim(); ++step) {
        int64_t smallest = -1;
        for (int64_t dimension = 0; dimension < tensor.dim(); ++dimension) {
            if (used[dimension] || tensor.size(dimension) == 1) continue;
            if (smallest < 0 || tensor.stride(dimension) < tensor.stride(smallest)) smallest = dimension;
        }
        if (smallest < 0) return true;
        if (tensor.stride(smallest) != expected) return false;
        expected *= tensor.size(smallest);
        used[smallest] = true;
    }
    return true;
}

inline bool have_same_layout(const Tensor& tensor, const Tensor& other) {
    if (!have_same_shape(tensor, other)) return false;
    for (int64_t dimension = 0; dimension < tensor.dim(); ++dimension) {
        if (tensor.size(dimension) > 1 && tensor.stride(dimension) != other.stride(dimension)) return false;
    }
    return true;
}

inline int64_t total_elements(const std::vector<Tensor>& tensors) {
    int64_t total = 0;
    for (const Tensor& tensor : tensors) total += tensor.numel();
    return total;
}

// As it is; for the emulator filled with NaN, so that what a kernel forgets to write is seen.
inline Tensor poisoned(Tensor tensor) {
#ifdef DISTGAN_EMULATOR
    memset(tensor.data_ptr(), 0xFF, tensor.numel() * tensor.element_size());
#endif
    return tensor;
}

// As it is; a large one in host memory, not yet written, asks for huge pages: the kernel hands out memory that is new
// to the process page by page, which takes longer than to fill it.
inline Tensor in_huge_pages(Tensor tensor) {
#ifdef __linux__
    constexpr uintptr_t PAGE = 4096, LARGE = 4 << 20;
    if (!tensor.is_cpu()) return tensor;
    const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr()) / PAGE * PAGE;
    const auto end = reinterpret_cast<uintptr_t>(tensor.data_ptr()) + tensor.numel() * tensor.element_size();
    if (end - begin >= LARGE) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // may be refused
#endif
    return tensor;
}

// Uninitialised, in the shape and the memory layout of `layout`, which has no gaps.
inline Tensor empty_in_layout_of(const Tensor& layout, ScalarType dtype) {
    if (dtype == layout.scalar_type()) return poisoned(in_huge_pages(torch::stable::empty_like(layout)));
    using torch::stable::detail::from;
    std::array<StableIValue, 7> stack{
        from(layout),       from(layout.sizes()), from(layout.strides()), from(std::optional(dtype)),
        from(std::nullopt), from(std::nullopt),   from(std::nullopt)};
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
    return poisoned(in_huge_pages(torch::stable::detail::to<Tensor>(stack[0])));
}

// The tensor in the memory layout of `layout`, which has the same shape; a copy only if it lies otherwise.
inline Tensor in_layout_of(const Tensor& layout, const Tensor& tensor) {
    if (have_same_layout(layout, tensor)) return tensor;
    Tensor copy = empty_in_layout_of(layout, tensor.scalar_type());
    torch::stable::copy_(copy, tensor);
    return copy;
}

}  // namespace distgan
