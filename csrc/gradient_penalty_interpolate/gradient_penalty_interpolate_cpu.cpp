#include "../common/vectors.h"
#include "gradient_penalty_interpolate.h"

namespace distgan {
namespace {

template <class T>
DISTGAN_INLINE Lanes load_normalised(const T* from) {
    const Lanes lanes = load(from);
    return std::is_same_v<T, uint8_t> ? lanes * PER_BYTE - 1 : lanes;
}

template <class T>
DISTGAN_INLINE void normalise(float* to, const T* from, int64_t length, bool streamed) {
    streamed = streamed && can_stream(to);
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        store(to + position, load_normalised(from + position), streamed);
    }
    for (; position < length; ++position) to[position] = normalised<T>(to_float(from[position]));
}

template <class Real, class Fake>
DISTGAN_INLINE void mix(float* to, float share, const Real* real, const Fake* fake, int64_t length, bool streamed) {
    streamed = streamed && can_stream(to);
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        const Lanes mixture = load_normalised(real + position) * share + load(fake + position) * (1 - share);
        store(to + position, mixture, streamed);
    }
    for (; position < length; ++position) {
        to[position] = mixed(share, normalised<Real>(to_float(real[position])), to_float(fake[position]));
    }
}

// Elements of one of several dtypes.
struct Elements {
    const void* elements;
    ScalarType dtype;

    explicit Elements(const Tensor& tensor) : elements(tensor.data_ptr()), dtype(tensor.scalar_type()) {}

    template <class T>
    const T* from(const Piece& piece) const {
        return static_cast<const T*>(elements) + piece.begin;
    }
};

template <class Real>
DISTGAN_INLINE void mix_with(float* to, float share, const Real* real, const Elements& fake, const Piece& piece,
                             bool streamed) {
    fake.dtype == ScalarType::Float ? mix(to, share, real, fake.from<float>(piece), piece.length, streamed)
                                    : mix(to, share, real, fake.from<BFloat16>(piece), piece.length, streamed);
}

DISTGAN_CLONES void mix_piece(float* to, float share, const Elements& real, const Elements& fake, const Piece& piece,
                              bool streamed) {
    switch (real.dtype) {
        case ScalarType::Byte:
            return mix_with(to, share, real.from<uint8_t>(piece), fake, piece, streamed);
        case ScalarType::Float:
            return mix_with(to, share, real.from<float>(piece), fake, piece, streamed);
        default:
            return mix_with(to, share, real.from<BFloat16>(piece), fake, piece, streamed);
    }
}

DISTGAN_CLONES void normalise_piece(float* to, const Elements& images, const Piece& piece, bool streamed) {
    switch (images.dtype) {
        case ScalarType::Byte:
            return normalise(to, images.from<uint8_t>(piece), piece.length, streamed);
        case ScalarType::Float:
            return normalise(to, images.from<float>(piece), piece.length, streamed);
        default:
            return normalise(to, images.from<BFloat16>(piece), piece.length, streamed);
    }
}

Tensor gradient_penalty_interpolate_cpu(const Tensor real_images, const Tensor fake_images, int64_t seed,
                                        int64_t offset, int64_t mode_number) {
    check_interpolate(real_images, fake_images, offset, mode_number);
    const auto mode = Mode(mode_number);
    const Images images(real_images, fake_images, mode);
    const Elements real(images.real), fake(images.fake);
    auto* result = static_cast<float*>(images.result.data_ptr());
    const bool streamed = is_streamed(images.result.numel() * int64_t(sizeof(float)));
    Pieces(Samples::of(images.result)).for_each([&](const Piece& piece) {
        float* to = result + piece.begin;
        if (mode == Mode::MIXTURE) {
            mix_piece(to, share_of_real(seed, uint64_t(offset) + piece.sample), real, fake, piece, streamed);
        } else {
            normalise_piece(to, mode == Mode::REAL ? real : fake, piece, streamed);
        }
    });
    return images.result;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) {
    library.impl("gradient_penalty_interpolate", TORCH_BOX(&distgan::gradient_penalty_interpolate_cpu));
}
