// One power iteration of every layer of a network in one launch, or with ITERATE = false only sigma = u^T W v.
//
// A block takes some consecutive rows of one layer, tile by tile. While a tile of rows is in shared memory, y_r = W_r .
// v is summed over its columns, and then each y_r W_r is added to the block's part of z = W^T y: device memory is read
// once. The last block of a layer to finish adds the parts, in the order of the blocks, and writes u = y / |y|, v = z /
// |z| and sigma = |z| / |y|. Which block is last changes nothing in the sums.
//
// The threads of a block form groups of `width` threads. Rows go to groups, columns to the threads of a group, and a
// thread meets only its own columns again: what it keeps in shared memory, no other thread reads.
#pragma once

#include "../common/device.cuh"

namespace distgan::spectral_norm_power_iteration {

constexpr unsigned THREADS = 256;
constexpr unsigned NUM_WARPS = THREADS / WARP;
constexpr unsigned MAX_ROWS = 8;              // rows of a group in one tile
constexpr unsigned SHARED_BYTES = 96 * 1024;  // what a block may have on every architecture from 8.0 on
constexpr unsigned MIN_ELEMENTS_PER_BLOCK = 8192;
constexpr unsigned NUM_BLOCKS = 1024;  // of a large network

struct Entry {
    const void* weight;
    int64_t row_stride;
    int32_t outer_stride, inner_stride;
    uint32_t inner_size, rows, columns;
    uint32_t u, v;   // where this layer's vectors begin
    uint32_t layer;  // its place in sigma
    uint32_t first_block, num_blocks, rows_per_block;
    uint32_t width;  // threads of a group: a power of two from 32 to 256
    uint32_t
        tile_rows;     // rows of a group in one tile, at most MAX_ROWS; 0: rows too long for shared memory, read twice
    uint64_t partial;  // where its blocks' parts of z begin
};

// Scratch memory; `unfinished` starts as zeros.
struct Scratch {
    float* y;            // like u
    float* z;            // a part of z for each block
    double* squares;     // of each block: its part of |y|^2, or of u^T W v
    unsigned* finished;  // of each layer: how many of its blocks are done
};

// How a layer is cut, by the shapes of the network alone. `total` is the number of elements of all layers.
inline void plan(Entry& entry, uint64_t total) {
    const uint32_t columns = larger(entry.columns, 1u);
    entry.width = WARP;
    while (entry.width < THREADS && entry.width < columns) entry.width *= 2;
    const uint32_t groups = THREADS / entry.width;
    // Of each group: a tile and its part of z.
    entry.tile_rows = MAX_ROWS;
    while (entry.tile_rows > 1 && (entry.tile_rows + 1) * groups * uint64_t(columns) * sizeof(float) > SHARED_BYTES)
        entry.tile_rows /= 2;
    if (entry.tile_rows == 1) entry.tile_rows = 0;
    const uint32_t rows_of_tile = groups * (entry.tile_rows ? entry.tile_rows : MAX_ROWS);
    const uint64_t elements = larger(uint64_t(MIN_ELEMENTS_PER_BLOCK), ceil_div(total, uint64_t(NUM_BLOCKS)));
    entry.rows_per_block =
        uint32_t(ceil_div(ceil_div(elements, uint64_t(columns)), uint64_t(rows_of_tile))) * rows_of_tile;
    entry.num_blocks = larger(1u, ceil_div(entry.rows, entry.rows_per_block));
}

// The scratch of sums, then for each group its tile and its part of z.
inline DISTGAN_HOST_DEVICE uint32_t floats_of_sums() { return larger(NUM_WARPS * MAX_ROWS, uint32_t(2 * NUM_WARPS)); }

inline size_t shared_bytes(const Entry& entry) {
    const uint32_t rows = entry.tile_rows ? entry.tile_rows + 1 : 0;
    return sizeof(float) * (floats_of_sums() + uint64_t(rows) * (THREADS / entry.width) * entry.columns);
}

template <class Weight>
__device__ __forceinline__ float element(const Entry& entry, uint32_t row, uint32_t column) {
    const uint32_t outer = column / entry.inner_size, inner = column - outer * entry.inner_size;
    const int64_t offset =
        row * entry.row_stride + int64_t(outer) * entry.outer_stride + int64_t(inner) * entry.inner_stride;
    return to_float(static_cast<const Weight*>(entry.weight)[offset]);
}

// Sums each of `values` over the `width` threads of the group; all get them. All threads of the block call it.
__device__ inline void group_sums(float (&values)[MAX_ROWS], uint32_t width, float* scratch) {
    for (unsigned row = 0; row < MAX_ROWS; ++row) {
        for (unsigned distance = WARP / 2; distance > 0; distance /= 2)
            values[row] += __shfl_xor_sync(ALL_LANES, values[row], distance);
    }
    if (width == WARP) return;
    const unsigned warp = threadIdx.x / WARP, warps_of_group = width / WARP;
    const unsigned first_warp = warp / warps_of_group * warps_of_group;
    __syncthreads();  // all have read the sums of the tile before
    if (threadIdx.x % WARP == 0) {
        for (unsigned row = 0; row < MAX_ROWS; ++row) scratch[warp * MAX_ROWS + row] = values[row];
    }
    __syncthreads();
    for (unsigned row = 0; row < MAX_ROWS; ++row) {
        values[row] = scratch[first_warp * MAX_ROWS + row];
        for (unsigned other = 1; other < warps_of_group; ++other)
            values[row] += scratch[(first_warp + other) * MAX_ROWS + row];
    }
}

// The layer's vectors and norm, out of what its blocks left.
template <bool ITERATE>
__device__ inline void finish(const Entry& entry, const Scratch& scratch, float* u, float* v, float* sigma, float eps,
                              double* sums) {
    double square = 0;
    for (uint32_t block = threadIdx.x; block < entry.num_blocks; block += THREADS)
        square += scratch.squares[entry.first_block + block];
    square = block_sum(square, sums);
    if (!ITERATE) {
        if (threadIdx.x == 0) sigma[entry.layer] = fabs(square) < eps ? eps : float(square);
        return;
    }
    float* z = scratch.z + entry.partial;  // the first block's part becomes the whole
    double z_square = 0;
    for (uint32_t column = threadIdx.x; column < entry.columns; column += THREADS) {
        float total = z[column];
        for (uint32_t block = 1; block < entry.num_blocks; ++block)
            total += z[uint64_t(block) * entry.columns + column];
        z[column] = total;
        z_square += double(total) * total;
    }
    z_square = block_sum(z_square, sums);
    if (square == 0 || z_square == 0) {  // a zero matrix; NaN goes on, so that it is seen
        if (threadIdx.x == 0) sigma[entry.layer] = eps;
        return;
    }
    const double y_norm = sqrt(square), z_norm = sqrt(z_square), norm = z_norm / y_norm;
    if (threadIdx.x == 0) sigma[entry.layer] = norm < eps ? eps : float(norm);
    const auto y_scale = float(1 / y_norm), z_scale = float(1 / z_norm);
    const float* y = scratch.y + entry.u;
    for (uint32_t row = threadIdx.x; row < entry.rows; row += THREADS) u[entry.u + row] = y[row] * y_scale;
    for (uint32_t column = threadIdx.x; column < entry.columns; column += THREADS)
        v[entry.v + column] = z[column] * z_scale;
}

// Adds this thread's columns of W_r . v to y for the first `count` of ROWS rows, r = begin, begin + stride, ...; keeps
// them in `tile` unless that is null.
template <class Weight, uint32_t ROWS, bool FULL>
__device__ inline void bring(const Entry& entry, uint32_t begin, uint32_t stride, uint32_t count, bool by_four,
                             uint32_t thread, const float* v, float* tile, float (&y)[MAX_ROWS]) {
    const uint32_t columns = entry.columns;
    if (!by_four) {
        for (uint32_t column = thread; column < columns; column += entry.width) {
            const float factor = v[column];
#pragma unroll
            for (uint32_t row = 0; row < ROWS; ++row) {
                if (!FULL && row >= count) break;
                const float weight = element<Weight>(entry, begin + row * stride, column);
                y[row] += weight * factor;
                if (tile) tile[row * columns + column] = weight;
            }
        }
        return;
    }
    for (uint32_t column = thread * 4; column < columns; column += entry.width * 4) {
        const float factors[4] = {v[column], v[column + 1], v[column + 2], v[column + 3]};
        Four<Weight> weights[ROWS];
#pragma unroll
        for (uint32_t row = 0; row < ROWS; ++row) {
            if (!FULL && row >= count) break;
            const Weight* from =
                static_cast<const Weight*>(entry.weight) + (begin + row * stride) * entry.row_stride + column;
            weights[row] = *reinterpret_cast<const Four<Weight>*>(from);
        }
#pragma unroll
        for (uint32_t row = 0; row < ROWS; ++row) {
            if (!FULL && row >= count) break;
            Four<float> kept;
#pragma unroll
            for (int element = 0; element < 4; ++element) {
                kept.values[element] = to_float(weights[row].values[element]);
                y[row] += kept.values[element] * factors[element];
            }
            if (tile) *reinterpret_cast<Four<float>*>(tile + row * columns + column) = kept;
        }
    }
}

template <class Weight, bool ITERATE>
__global__ void __launch_bounds__(THREADS) kernel(const __grid_constant__ Table<Entry> table, const Scratch scratch,
                                                  float* u, float* v, float* sigma, float eps) {
    const Entry& entry = table.entries[entry_of_block(table.entries, table.count, blockIdx.x)];
    const uint32_t block = blockIdx.x - entry.first_block, columns = entry.columns;
    const uint32_t groups = THREADS / entry.width, group = threadIdx.x / entry.width,
                   thread = threadIdx.x % entry.width;
    const bool in_shared = entry.tile_rows != 0;
    const uint32_t tile_rows = in_shared ? entry.tile_rows : MAX_ROWS;
    const bool plain = entry.inner_stride == 1 && entry.inner_size == columns;
    const bool by_four = plain && columns % 4 == 0 && entry.row_stride % 4 == 0 &&
                         is_aligned_to_four(static_cast<const Weight*>(entry.weight));

    float* sums = shared_memory<float>();
    float* tile = sums + floats_of_sums() + uint64_t(group) * (entry.tile_rows + 1) * columns;  // [tile_rows, columns]
    // The group's part of z. Where it does not fit, there is one group, and its part is the block's.
    float* z =
        in_shared ? tile + uint64_t(entry.tile_rows) * columns : scratch.z + entry.partial + uint64_t(block) * columns;
    const uint32_t step = by_four ? 4 : 1;  // a thread's columns: `step` in a row, then those `width * step` further on
    if (ITERATE) {
        for (uint32_t first = thread * step; first < columns; first += entry.width * step) {
            for (uint32_t column = first; column < first + step; ++column) z[column] = 0;
        }
    }
    const float* layer_v = v + entry.v;
    double square = 0;

    const uint32_t end_row = smaller(entry.rows, (block + 1) * entry.rows_per_block);
    for (uint32_t first_row = block * entry.rows_per_block; first_row < end_row; first_row += groups * tile_rows) {
        // Row k of this group's tile is first_row + k * groups + group.
        const uint32_t begin = first_row + group;
        const uint32_t count = begin < end_row ? smaller(tile_rows, ceil_div(end_row - begin, groups)) : 0;
        float y[MAX_ROWS] = {};
        float* kept = ITERATE && in_shared ? tile : nullptr;
        // A tile is nearly always full: then no condition stands between the loads of its rows, and all are under way
        // at once.
        if (count == 8) {
            bring<Weight, 8, true>(entry, begin, groups, count, by_four, thread, layer_v, kept, y);
        } else if (count == 4) {
            bring<Weight, 4, true>(entry, begin, groups, count, by_four, thread, layer_v, kept, y);
        } else {
            bring<Weight, MAX_ROWS, false>(entry, begin, groups, count, by_four, thread, layer_v, kept, y);
        }
        group_sums(y, entry.width, sums);
        if (thread == 0) {
#pragma unroll
            for (uint32_t row = 0; row < MAX_ROWS; ++row) {
                if (row >= count) break;
                const uint32_t place = entry.u + begin + row * groups;
                if (ITERATE) scratch.y[place] = y[row];
                square += double(y[row]) * (ITERATE ? y[row] : u[place]);
            }
        }
        if constexpr (ITERATE) {
            for (uint32_t first = thread * step; first < columns; first += entry.width * step) {
                for (uint32_t column = first; column < first + step; ++column) {
                    float total = z[column];
#pragma unroll
                    for (uint32_t row = 0; row < MAX_ROWS; ++row) {
                        if (row >= count) break;
                        total += y[row] * (in_shared ? tile[row * columns + column]
                                                     : element<Weight>(entry, begin + row * groups, column));
                    }
                    z[column] = total;
                }
            }
        }
    }

    square = block_sum(square, reinterpret_cast<double*>(sums));
    if (threadIdx.x == 0) scratch.squares[blockIdx.x] = square;
    if (ITERATE && in_shared) {
        __syncthreads();  // the parts of all groups are there
        const float* first = sums + floats_of_sums() + uint64_t(entry.tile_rows) * columns;
        for (uint32_t column = threadIdx.x; column < columns; column += THREADS) {
            float total = first[column];
            for (uint32_t other = 1; other < groups; ++other)
                total += first[uint64_t(other) * (entry.tile_rows + 1) * columns + column];
            scratch.z[entry.partial + uint64_t(block) * columns + column] = total;
        }
    }

    if (!is_last_to_finish(&scratch.finished[entry.layer], entry.num_blocks, reinterpret_cast<unsigned*>(sums))) return;
    finish<ITERATE>(entry, scratch, u, v, sigma, eps, reinterpret_cast<double*>(sums));
}

}  // namespace distgan::spectral_norm_power_iteration
