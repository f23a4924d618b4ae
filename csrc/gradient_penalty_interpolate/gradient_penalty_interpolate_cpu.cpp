#include "../common/vectors.h"
#include "gradient_penalty_interpolate.h"

namespace distgan {
namespace {

template <class T>
DISTGAN_INLINE void load_normalised(Lanes& lanes, const T* from) {
    load(lanes, from);
    if (std::is_same_v<T, uint8_t>) lanes = lanes * PER_BYTE - 1;
}

template <class T>
DISTGAN_INLINE void normalise(float* to, const T* from, int64_t length) {
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        Lanes values;
        load_normalised(values, from + position);
        store(to + position, values);
    }
    for (; position < length; ++position) to[position] = normalised<T>(to_float(from[position]));
}

template <class Real, class Fake>
DISTGAN_INLINE void mix(float* to, float share, const Real* real, const Fake* fake, int64_t length) {
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        Lanes from_real, from_fake;
        load_normalised(from_real, real + position);
        load(from_fake, fake + position);
        from_real = share * from_real + (1 - share) * from_fake;
        store(to + position, from_real);
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
DISTGAN_INLINE void mix_with(float* to, float share, const Real* real, const Elements& fake, const Piece& piece) {
    fake.dtype == ScalarType::Float ? mix(to, share, real, fake.from<float>(piece), piece.length)
                                    : mix(to, share, real, fake.from<BFloat16>(piece), piece.length);
}

DISTGAN_CLONES void mix_piece(float* to, float share, const Elements& real, const Elements& fake, const Piece& piece) {
    switch (real.dtype) {
        case ScalarType::Byte:
            return mix_with(to, share, real.from<uint8_t>(piece), fake, piece);
        case ScalarType::Float:
            return mix_with(to, share, real.from<float>(piece), fake, piece);
        default:
            return mix_with(to, share, real.from<BFloat16>(piece), fake, piece);
    }
}

DISTGAN_CLONES void normalise_piece(float* to, const Elements& images, const Piece& piece) {
    switch (images.dtype) {
        case ScalarType::Byte:
            return normalise(to, images.from<uint8_t>(piece), piece.length);
        case ScalarType::Float:
            return normalise(to, images.from<float>(piece), piece.length);
        default:
            return normalise(to, images.from<BFloat16>(piece), piece.length);
    }
}

Tensor gradient_penalty_interpolate_cpu(const Tensor real_images, const Tensor fake_images, int64_t seed,
                                        int64_t offset, int64_t mode_number) {
    check_interpolate(real_images, fake_images, offset, mode_number);
    const auto mode = Mode(mode_number);
    const Images images(real_images, fake_images, mode);
    const Elements real(images.real), fake(images.fake);
    auto* result = static_cast<float*>(images.result.data_ptr());
    Pieces(Samples::of(images.result)).for_each([&](const Piece& piece) {
        float* to = result + piece.begin;
        if (mode == Mode::MIXTURE) {
            mix_piece(to, share_of_real(seed, uint64_t(offset) + piece.sample), real, fake, piece);
        } else {
            normalise_piece(to, mode == Mode::REAL ? real : fake, piece);
        }
    });
    return images.result;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) {
    library.impl("gradient_penalty_interpolate", TORCH_BOX(&distgan::gradient_penalty_interpolate_cpu));
}
