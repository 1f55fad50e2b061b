// Products of matrices whose rows lie anywhere in memory, with all sums in registers.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace kshot {

// A block of sums fills the processor's registers, 32 with AVX-512 and 16 elsewhere, together with
// a vector of each factor: ROW_COUNT rows of VECTOR_COUNT vectors, or more rows of fewer vectors.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTOR_COUNT = 4;
#else
constexpr int LANES = 8, VECTOR_COUNT = 2;
#endif
constexpr int ROW_COUNT = 6;

#define KSHOT_UNROLL _Pragma("GCC unroll 16")

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(alignof(float))));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector all(float value) { return value - Vector{}; }

template <int COUNT>
struct Vectors {
    Vector values[COUNT] = {};

    static Vectors at(const float* from) {
        Vectors loaded;
        KSHOT_UNROLL for (int v = 0; v < COUNT; v++) loaded.values[v] = load(from + v * LANES);
        return loaded;
    }

    void write(float* to) const {
        KSHOT_UNROLL for (int v = 0; v < COUNT; v++) store(to + v * LANES, values[v]);
    }

    void scale(float factor) {
        KSHOT_UNROLL for (int v = 0; v < COUNT; v++) values[v] *= factor;
    }

    void add(float factor, const Vectors& others) {
        const Vector factors = all(factor);
        KSHOT_UNROLL for (int v = 0; v < COUNT; v++) values[v] += factors * others.values[v];
    }

    void add_squares(const Vectors& others, const Vectors& centre) {
        KSHOT_UNROLL for (int v = 0; v < COUNT; v++) {
            const Vector difference = others.values[v] - centre.values[v];
            values[v] += difference * difference;
        }
    }
};

template <int COUNT>
using Count = std::integral_constant<int, COUNT>;  // it is known when `body` is compiled

// Call `body(count, first)` for groups of `count` neighbouring vectors, the first float of each is
// number `first`: `width` floats, a multiple of LANES.
template <int COUNT = VECTOR_COUNT, class Body>
void for_each_group(int64_t width, Body body, int64_t first = 0) {
    for (; first + COUNT * LANES <= width; first += COUNT * LANES) body(Count<COUNT>{}, first);
    if constexpr (COUNT > 1) for_each_group<COUNT / 2>(width, body, first);
}

// Call `body(count, first)` for blocks of at most ROWS rows.
template <int ROWS, class Body>
void for_each_block(int64_t count, Body body, int64_t first = 0) {
    for (; first + ROWS <= count; first += ROWS) body(Count<ROWS>{}, first);
    constexpr int FEWER = ROWS > ROW_COUNT ? ROW_COUNT : ROWS - 1;
    if constexpr (FEWER > 0) for_each_block<FEWER>(count, body, first);
}

constexpr int most_rows(int vector_count) {
    return vector_count < VECTOR_COUNT ? 2 * ROW_COUNT : ROW_COUNT;
}

// A part of each row on the left, from `offset` on, and the `length` rows on the right it meets.
struct Piece {
    int64_t offset;
    const float* right;
    int64_t length;
};

// Row r of the left factor, and where row r of the product goes.
struct Row {
    const float* left;
    float* product;
};

template <int ROWS, int COUNT>
void multiply_block(const Row* rows, const std::vector<Piece>& pieces, int64_t width,
                    int64_t column) {
    Vectors<COUNT> sums[ROWS];
    for (const Piece& piece : pieces) {
        const float *left[ROWS], *right = piece.right + column;
        KSHOT_UNROLL for (int r = 0; r < ROWS; r++) left[r] = rows[r].left + piece.offset;
        for (int64_t k = 0; k < piece.length; k++, right += width) {
            const auto factors = Vectors<COUNT>::at(right);
            KSHOT_UNROLL for (int r = 0; r < ROWS; r++) sums[r].add(left[r][k], factors);
        }
    }
    KSHOT_UNROLL for (int r = 0; r < ROWS; r++) sums[r].write(rows[r].product + column);
}

// Multiply rows by matrices `(length, width)`, and add up the pieces' products.
inline void multiply(const std::vector<Row>& rows, const std::vector<Piece>& pieces,
                     int64_t width) {
    for_each_group(width, [&](auto count, int64_t column) {
        for_each_block<most_rows(count)>(int64_t(rows.size()), [&](auto row_count, int64_t first) {
            multiply_block<row_count, count>(&rows[first], pieces, width, column);
        });
    });
}

// Rows of both factors that lie at equal distances.
struct Run {
    const float* left;
    const float* right;
    int64_t count;
};

template <int ROWS, int COUNT>
void multiply_transposed_block(const Run* runs, int64_t run_count, int64_t step, int64_t offset,
                               int64_t width, int64_t column, float* product) {
    Vectors<COUNT> sums[ROWS];
    KSHOT_UNROLL for (int r = 0; r < ROWS; r++) sums[r] = Vectors<COUNT>::at(product + r * width);
    for (const Run* run = runs; run < runs + run_count; run++) {
        const float *left = run->left + offset, *right = run->right + column;
        for (int64_t m = 0; m < run->count; m++, left += step, right += width) {
            const auto factors = Vectors<COUNT>::at(right);
            KSHOT_UNROLL for (int r = 0; r < ROWS; r++) sums[r].add(left[r], factors);
        }
    }
    KSHOT_UNROLL for (int r = 0; r < ROWS; r++) sums[r].write(product + r * width);
}

// Multiply the transpose of the left rows' `length` floats from `offset` on by the right rows, and
// add it to `(length, width)` sums. Left rows are `step` floats apart.
inline void multiply_transposed(const Run* runs, int64_t run_count, int64_t step, int64_t offset,
                                int64_t length, int64_t width, float* sums) {
    for_each_group(width, [&](auto count, int64_t column) {
        for_each_block<most_rows(count)>(length, [&](auto row_count, int64_t first) {
            multiply_transposed_block<row_count, count>(runs, run_count, step, offset + first,
                                                        width, column,
                                                        sums + first * width + column);
        });
    });
}

#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)

template <int DISTANCE, int... LANE>
inline void exchange(Vector& one, Vector& other, std::integer_sequence<int, LANE...>) {
    const Vector before = one;
    one = __builtin_shufflevector(before, other,
                                  (LANE & DISTANCE ? LANES + LANE - DISTANCE : LANE)...);
    other = __builtin_shufflevector(before, other,
                                    (LANE & DISTANCE ? LANES + LANE : LANE + DISTANCE)...);
}

template <int DISTANCE>
inline void transpose_square(Vector (&rows)[LANES]) {
    if constexpr (DISTANCE > 0) {
        KSHOT_UNROLL for (int r = 0; r < LANES; r++)
            if (!(r & DISTANCE))
                exchange<DISTANCE>(rows[r], rows[r + DISTANCE],
                                   std::make_integer_sequence<int, LANES>{});
        transpose_square<DISTANCE / 2>(rows);
    }
}

inline void transpose_square(const float* from, int64_t width, float* to, int64_t row_count) {
    Vector square[LANES];
    KSHOT_UNROLL for (int r = 0; r < LANES; r++) square[r] = load(from + r * width);
    transpose_square<LANES / 2>(square);
    KSHOT_UNROLL for (int r = 0; r < LANES; r++) store(to + r * row_count, square[r]);
}

#else  // before GCC 12

inline void transpose_square(const float* from, int64_t width, float* to, int64_t row_count) {
    for (int r = 0; r < LANES; r++)
        for (int c = 0; c < LANES; c++) to[c * row_count + r] = from[r * width + c];
}

#endif

// Transpose `(row_count, width)`; both are multiples of LANES.
inline void transpose(const float* from, int64_t row_count, int64_t width, float* to) {
    for (int64_t row = 0; row < row_count; row += LANES)
        for (int64_t column = 0; column < width; column += LANES)
            transpose_square(from + row * width + column, width, to + column * row_count + row,
                             row_count);
}

}  // namespace kshot
