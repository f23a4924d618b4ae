// Philox4x32-10, a counter-based random number generator: the numbers are a pure function of a counter and a key, so
// they depend neither on the order in which they are drawn nor on the device (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3").
#pragma once

#include "portable.h"

namespace distgan {

struct PhiloxCounter {
    uint32_t words[4];
};

struct PhiloxKey {
    uint32_t words[2];
};

// Four random words.
inline DISTGAN_HOST_DEVICE constexpr PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t even = uint64_t{0xD2511F53} * counter.words[0], odd = uint64_t{0xCD9E8D57} * counter.words[2];
        counter = {uint32_t(odd >> 32) ^ counter.words[1] ^ key.words[0], uint32_t(odd),
                   uint32_t(even >> 32) ^ counter.words[3] ^ key.words[1], uint32_t(even)};
        key = {key.words[0] + 0x9E3779B9, key.words[1] + 0xBB67AE85};
    }
    return counter;
}

// Uniform in [0, 1): a multiple of 2^-24, so that it and its difference to 1 are exact.
inline DISTGAN_HOST_DEVICE constexpr float uniform(uint32_t word) { return float(word >> 8) * 0x1p-24f; }

// The known answers that the paper's own library, Random123, is tested with.
namespace known_answers {

constexpr bool are_equal(PhiloxCounter a, PhiloxCounter b) {
    return a.words[0] == b.words[0] && a.words[1] == b.words[1] && a.words[2] == b.words[2] && a.words[3] == b.words[3];
}

constexpr uint32_t ONES = 0xFFFFFFFF;
static_assert(are_equal(philox({0, 0, 0, 0}, {0, 0}), {0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
static_assert(are_equal(philox({ONES, ONES, ONES, ONES}, {ONES, ONES}),
                        {0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
static_assert(are_equal(philox({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
                        {0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));

}  // namespace known_answers
}  // namespace distgan
