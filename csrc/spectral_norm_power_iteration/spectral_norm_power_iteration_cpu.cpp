#include <cmath>

#include "../common/tasks.h"
#include "../common/vectors.h"
#include "spectral_norm_power_iteration.h"

namespace distgan {
namespace {

constexpr int64_t ROWS_AT_ONCE = 8;  // share one pass over z
// Of a task; decided by the shape alone, so that the order of summation is too. Each task leaves a part of z, as long
// as a row: few long rows would cost more than they save.
constexpr int64_t MIN_ELEMENTS = 64 * 1024, MIN_ROWS = 32;

// Some rows of one layer.
struct Task {
    int64_t layer, first_row, num_rows;
    int64_t partial;  // where its share of z begins in the scratch memory
};

struct Layer {
    Matrix matrix;
    bool is_fp32;
    VectorOffsets offsets;
    int64_t first_task, num_tasks;
};

// Everything a call works on; what the tasks leave for the last one of a layer is in the scratch memory.
struct Work {
    std::vector<Layer> layers;
    std::vector<Task> tasks;
    int64_t num_elements;
    float *u, *v, *sigma;
    float eps;
    float *y, *partial_z;                          // y lies like u
    std::vector<double> y_squares;                 // a number for each task; with iterations = 0: its share of u^T W v
    std::vector<std::atomic<int64_t>> unfinished;  // tasks of each layer
};

DISTGAN_INLINE double squares(const float* values, int64_t length) {
    double sums[LANES] = {};
    int64_t position = 0;
    for (; position + LANES <= length; position += LANES) {
        for (int64_t lane = 0; lane < LANES; ++lane)
            sums[lane] += double(values[position + lane]) * values[position + lane];
    }
    for (; position < length; ++position) sums[0] += double(values[position]) * values[position];
    for (int64_t lane = 1; lane < LANES; ++lane) sums[0] += sums[lane];
    return sums[0];
}

// row . v, along memory: the only pass that waits for it.
template <class Weight>
DISTGAN_INLINE float dot(const Weight* row, const float* v, int64_t columns) {
    constexpr int64_t AT_ONCE = 4;
    Lanes sums[AT_ONCE] = {};
    int64_t column = 0;
    for (; column + AT_ONCE * LANES <= columns; column += AT_ONCE * LANES) {
        for (int64_t part = 0; part < AT_ONCE; ++part)
            sums[part] += load(row + column + part * LANES) * load(v + column + part * LANES);
    }
    for (; column + LANES <= columns; column += LANES) sums[0] += load(row + column) * load(v + column);
    float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; column < columns; ++column) total += to_float(row[column]) * v[column];
    return total;
}

// z += sum over k of y[k] * row k.
template <int K, class Weight>
DISTGAN_INLINE void add_rows(float* z, const float* y, const Weight* rows, int64_t stride, int64_t columns) {
    int64_t column = 0;
    for (; column + LANES <= columns; column += LANES) {
        Lanes total = load(z + column);
        for (int row = 0; row < K; ++row) total += load(rows + row * stride + column) * y[row];
        store(z + column, total);
    }
    for (; column < columns; ++column) {
        for (int row = 0; row < K; ++row) z[column] += y[row] * to_float(rows[row * stride + column]);
    }
}

// Copies rows into contiguous fp32, walking along memory: columns fastest if they are the closer neighbours.
template <class Weight>
DISTGAN_INLINE void gather(float* to, const Matrix& matrix, int64_t first_row, int64_t num_rows) {
    const auto* from = static_cast<const Weight*>(matrix.elements) + first_row * matrix.row_stride;
    const int64_t outer_size = matrix.columns / matrix.inner_size;
    for (int64_t outer = 0; outer < outer_size; ++outer) {
        for (int64_t inner = 0; inner < matrix.inner_size; ++inner) {
            const auto* column = from + outer * matrix.outer_stride + inner * matrix.inner_stride;
            for (int64_t row = 0; row < num_rows; ++row) {
                to[row * matrix.columns + outer * matrix.inner_size + inner] =
                    to_float(column[row * matrix.row_stride]);
            }
        }
    }
}

template <int K, class Weight>
DISTGAN_INLINE void take_rows(float* z, float* y, const Weight* rows, int64_t stride, const float* v, int64_t columns) {
    for (int row = 0; row < K; ++row) y[row] = dot(rows + row * stride, v, columns);
    if (z) add_rows<K>(z, y, rows, stride, columns);
}

// y of the task's rows and, unless z is null, their part of z = W^T y.
template <class Weight>
DISTGAN_INLINE void multiply(float* z, float* y, const Layer& layer, const Task& task, const float* v) {
    const Matrix& matrix = layer.matrix;
    const int64_t columns = matrix.columns;
    const bool in_place = matrix.has_contiguous_rows();
    std::vector<float> gathered(in_place ? 0 : ROWS_AT_ONCE * columns);
    for (int64_t row = 0; row < task.num_rows; row += ROWS_AT_ONCE) {
        const int64_t count = smaller(ROWS_AT_ONCE, task.num_rows - row);
        if (in_place) {
            const auto* rows = static_cast<const Weight*>(matrix.elements) + (task.first_row + row) * matrix.row_stride;
            if (count == ROWS_AT_ONCE) {
                take_rows<ROWS_AT_ONCE>(z, y + row, rows, matrix.row_stride, v, columns);
            } else {
                for (int64_t one = 0; one < count; ++one)
                    take_rows<1>(z, y + row + one, rows + one * matrix.row_stride, 0, v, columns);
            }
        } else {
            gather<Weight>(gathered.data(), matrix, task.first_row + row, count);
            for (int64_t one = 0; one < count; ++one)
                take_rows<1>(z, y + row + one, gathered.data() + one * columns, 0, v, columns);
        }
    }
}

// The whole layer's z, norms and vectors, out of what its tasks left.
DISTGAN_INLINE void finish_iteration(Work& work, const Layer& layer) {
    const int64_t rows = layer.matrix.rows, columns = layer.matrix.columns;
    float* z = work.partial_z + work.tasks[layer.first_task].partial;
    double y_square = work.y_squares[layer.first_task];
    for (int64_t number = layer.first_task + 1; number < layer.first_task + layer.num_tasks; ++number) {
        const float* partial = work.partial_z + work.tasks[number].partial;
        for (int64_t column = 0; column < columns; ++column) z[column] += partial[column];
        y_square += work.y_squares[number];
    }
    const double z_square = squares(z, columns);
    float& sigma = work.sigma[&layer - work.layers.data()];
    if (y_square == 0 || z_square == 0) {  // a zero matrix; NaN goes on, so that it is seen
        sigma = work.eps;
        return;
    }
    const double y_norm = std::sqrt(y_square), z_norm = std::sqrt(z_square);
    const double norm = z_norm / y_norm;
    sigma = norm < work.eps ? work.eps : float(norm);
    const auto y_scale = float(1 / y_norm), z_scale = float(1 / z_norm);
    const float* y = work.y + layer.offsets.u;
    float *u = work.u + layer.offsets.u, *v = work.v + layer.offsets.v;
    for (int64_t row = 0; row < rows; ++row) u[row] = y[row] * y_scale;
    for (int64_t column = 0; column < columns; ++column) v[column] = z[column] * z_scale;
}

DISTGAN_CLONES void iterate(Work& work, int64_t number) {
    const Task& task = work.tasks[number];
    const Layer& layer = work.layers[task.layer];
    float *y = work.y + layer.offsets.u + task.first_row, *z = work.partial_z + task.partial;
    const float* v = work.v + layer.offsets.v;
    memset(z, 0, layer.matrix.columns * sizeof(float));
    layer.is_fp32 ? multiply<float>(z, y, layer, task, v) : multiply<BFloat16>(z, y, layer, task, v);
    work.y_squares[number] = squares(y, task.num_rows);
    // Whoever comes last finishes the layer; the order of its sums is that of the tasks' numbers.
    if (work.unfinished[task.layer].fetch_sub(1) == 1) finish_iteration(work, layer);
}

DISTGAN_CLONES void measure(Work& work, int64_t number) {
    const Task& task = work.tasks[number];
    const Layer& layer = work.layers[task.layer];
    float* y = work.y + layer.offsets.u + task.first_row;
    const float* u = work.u + layer.offsets.u + task.first_row;
    const float* v = work.v + layer.offsets.v;
    layer.is_fp32 ? multiply<float>(nullptr, y, layer, task, v) : multiply<BFloat16>(nullptr, y, layer, task, v);
    double product = 0;
    for (int64_t row = 0; row < task.num_rows; ++row) product += double(u[row]) * y[row];
    work.y_squares[number] = product;
    if (work.unfinished[task.layer].fetch_sub(1) != 1) return;
    double norm = 0;
    for (int64_t part = layer.first_task; part < layer.first_task + layer.num_tasks; ++part)
        norm += work.y_squares[part];
    work.sigma[task.layer] = std::fabs(norm) < work.eps ? work.eps : float(norm);
}

template <class Function>
void run_tasks(Work& work, const Function& function) {
    for (size_t layer = 0; layer < work.layers.size(); ++layer) work.unfinished[layer] = work.layers[layer].num_tasks;
    for_each_task(int64_t(work.tasks.size()), work.num_elements, [&](int64_t number) { function(work, number); });
}

Tensor spectral_norm_power_iteration_cpu(const std::vector<Tensor> weights, Tensor u, Tensor v, int64_t iterations,
                                         double eps) {
    const std::vector<VectorOffsets> offsets = check_power_iteration(weights, u, v, iterations, eps);
    const auto num_layers = int64_t(weights.size());
    Tensor sigma = torch::stable::new_empty(u, {num_layers}, ScalarType::Float);
    std::vector<Tensor> copies;
    Work work;
    work.u = static_cast<float*>(u.data_ptr());
    work.v = static_cast<float*>(v.data_ptr());
    work.sigma = static_cast<float*>(sigma.data_ptr());
    work.eps = float(eps);
    work.num_elements = total_elements(weights);
    int64_t partials = 0;
    for (int64_t layer = 0; layer < num_layers; ++layer) {
        const Matrix matrix = as_matrix(weights[layer], copies);
        const auto first_task = int64_t(work.tasks.size());
        const int64_t rows = larger(MIN_ROWS, MIN_ELEMENTS / larger(matrix.columns, int64_t(1)));
        const int64_t rows_per_task = ceil_div(rows, ROWS_AT_ONCE) * ROWS_AT_ONCE;
        int64_t row = 0;
        do {  // an empty layer has a task, too: it has a norm
            work.tasks.push_back({layer, row, smaller(rows_per_task, matrix.rows - row), partials});
            partials += matrix.columns;
            row += rows_per_task;
        } while (row < matrix.rows);
        const bool is_fp32 = weights[layer].scalar_type() == ScalarType::Float;
        work.layers.push_back({matrix, is_fp32, offsets[layer], first_task, int64_t(work.tasks.size()) - first_task});
    }
    work.y_squares.resize(work.tasks.size());
    work.unfinished = std::vector<std::atomic<int64_t>>(num_layers);
    // Kept from call to call: memory that is new each time costs a page fault per 4 KB.
    static thread_local std::vector<float> scratch;
    if (int64_t(scratch.size()) < u.numel() + partials) scratch.resize(u.numel() + partials);
    work.y = scratch.data();
    work.partial_z = work.y + u.numel();
    if (iterations == 0) run_tasks(work, measure);
    for (int64_t iteration = 0; iteration < iterations; ++iteration) run_tasks(work, iterate);
    return sigma;
}

}  // namespace
}  // namespace distgan

STABLE_TORCH_LIBRARY_IMPL(distgan, CPU, library) {
    library.impl("spectral_norm_power_iteration_", TORCH_BOX(&distgan::spectral_norm_power_iteration_cpu));
}
