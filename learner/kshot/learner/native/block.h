// A block of conv4, forth and back: a 3x3 convolution, batch norm and ReLU. It halves the sides, by
// a stride of 2 or by max-pooling.

#pragma once

#include <algorithm>
#include <cmath>

#include "products.h"

namespace kshot {

constexpr int64_t KERNEL = 3, POOL = 2;
constexpr int64_t NEAR_BYTES = 1 << 15;  // stays in the nearest cache beside other arrays

inline int64_t halved(int64_t side) { return (side + 1) / 2; }

// What TensorFlow's SAME padding adds to a side, at both ends together.
inline int64_t padding_of(int64_t side, int64_t stride) {
    return std::max<int64_t>((side - 1) / stride * stride + KERNEL - side, 0);
}

// Images `(image, row, column, channel)` with a border of zeros.
struct Images {
    int64_t count, height, width, channels, top, left, line;
    std::vector<float> values;

    Images(int64_t count, int64_t height, int64_t width, int64_t channels, int64_t top,
           int64_t left, int64_t bottom, int64_t right)
        : count(count), height(height), width(width), channels(channels), top(top), left(left),
          line((left + width + right) * channels),
          values(count * (top + height + bottom) * line), lines_(top + height + bottom) {}

    // A pixel; rows and columns below zero are the border's.
    float* at(int64_t image, int64_t row, int64_t column) {
        return values.data() + (image * lines_ + top + row) * line + (left + column) * channels;
    }

    // Call `body(image, row)` for every line of pixels inside the border, in order.
    template <class Body>
    void for_each_line(Body body) const {
        for (int64_t image = 0; image < count; image++)
            for (int64_t row = 0; row < height; row++) body(image, row);
    }

private:
    int64_t lines_;
};

// Kernels are `(row, column, channel, filter)`: a product reads whole vectors of filters, and a
// line of a patch is one piece of memory, so that no patch is copied.
class Block {
public:
    Block(int64_t count, int64_t height, int64_t width, int64_t channels, int64_t filters,
          bool pooled)
        : inputs(framed(count, height, width, channels, pooled ? 1 : 2)), pooled_(pooled),
          stride_(pooled ? 1 : 2), channels_(channels), filters_(filters),
          gradients_(count, (height - 1) / stride_ + 1, (width - 1) / stride_ + 1, filters, 1, 1,
                     2 - stride_, 2 - stride_),
          of_pools_(pooled ? count : 0, halved(height), halved(width), filters, 0, 0, 0, 0),
          places_(count * gradients_.height * gradients_.width), products_(places_ * filters),
          mean_(filters), variance_(filters), rate_(filters),
          transposed_(KERNEL * KERNEL * filters * channels) {
        gradients_.for_each_line([&](int64_t image, int64_t row) {
            const int64_t y = row * stride_ - inputs.top;
            lines_.push_back({inputs.at(image, y, -inputs.left), gradients_.at(image, row, 0),
                              gradients_.width});
            for (int64_t column = 0; column < gradients_.width; column++)
                forth_.push_back({inputs.at(image, y, column * stride_ - inputs.left),
                                  products_.data() + int64_t(forth_.size()) * filters});
        });
    }
    Block(Block&&) = default;  // arrays stay where they are

    Images inputs;

    // Where the gradients of the outputs go.
    Images& of_outputs() { return pooled_ ? of_pools_ : gradients_; }

    int64_t kernel_size() const { return KERNEL * KERNEL * channels_ * filters_; }
    int64_t size() const { return kernel_size() + 2 * filters_; }

    // Convolve the inputs, and find each filter's mean and variance over all places.
    void convolve(const float* kernels, float epsilon) {
        const int64_t length = KERNEL * channels_;
        std::vector<Piece> pieces;
        for (int64_t row = 0; row < KERNEL; row++)
            pieces.push_back({row * inputs.line, kernels + row * length * filters_, length});
        multiply(forth_, pieces, filters_);
        for_each_group(filters_, [&](auto count, int64_t f) {
            Vectors<count> mean, variance;
            for (int64_t place = 0; place < places_; place++)
                mean.add(1, Vectors<count>::at(product(place) + f));
            mean.scale(1.0f / float(places_));
            for (int64_t place = 0; place < places_; place++)
                variance.add_squares(Vectors<count>::at(product(place) + f), mean);
            variance.scale(1.0f / float(places_));
            mean.write(&mean_[f]);
            variance.write(&variance_[f]);
        });
        for (int64_t f = 0; f < filters_; f++) rate_[f] = 1 / std::sqrt(variance_[f] + epsilon);
    }

    // Each filter's mean and variance over all places, `(filters,)`.
    const std::vector<float>& mean() const { return mean_; }
    const std::vector<float>& variance() const { return variance_; }

    // Write batch norm's outputs, or the greatest of each pool, where they are above zero: to
    // `target(image, row)`, a line each.
    template <class Target>
    void activate(const float* scale, const float* shift, Target target) {
        of_outputs().for_each_line([&](int64_t image, int64_t row) {
            float* to = target(image, row);
            for (int64_t column = 0; column < of_outputs().width; column++)
                for (int64_t f = 0; f < filters_; f += LANES, to += LANES) {
                    const Vector value = greatest_of(image, row, column, f, scale, shift);
                    store(to, value <= 0 ? Vector{} : value);
                }
        });
    }

    // Turn gradients of the outputs into those of the products, and write those of batch norm's
    // parameters (Ioffe and Szegedy 2015, section 3).
    void back_through_norm(const float* scale, const float* shift, float* of_scale,
                           float* of_shift) {
        if (pooled_) back_through_pools(scale, shift);
        for_each_group(filters_, [&](auto count, int64_t f) {
            constexpr int COUNT = count;
            Vectors<COUNT> scales, shifts;
            for_each_gradient(f, [&](int64_t place, float* gradient) {
                KSHOT_UNROLL for (int v = 0; v < COUNT; v++) {
                    const int64_t at = f + v * LANES;
                    const Vector value = normalized(place, at);
                    const Vector used = output(place, at, scale, shift) <= 0
                                            ? Vector{}
                                            : load(gradient + v * LANES);
                    store(gradient + v * LANES, used);
                    scales.values[v] += used * value;
                    shifts.values[v] += used;
                }
            });
            scales.write(of_scale + f), shifts.write(of_shift + f);
            scales.scale(1.0f / float(places_)), shifts.scale(1.0f / float(places_));
            for_each_gradient(f, [&](int64_t place, float* gradient) {
                KSHOT_UNROLL for (int v = 0; v < COUNT; v++) {
                    const int64_t at = f + v * LANES;
                    const Vector centred = load(gradient + v * LANES) - shifts.values[v] -
                                           normalized(place, at) * scales.values[v];
                    store(gradient + v * LANES, load(&rate_[at]) * load(scale + at) * centred);
                }
            });
        });
    }

    // Write the kernels' gradients.
    void differentiate_kernels(float* of_kernels) {
        const int64_t length = KERNEL * channels_, line_count = lines_.size();
        const int64_t line_bytes = gradients_.width * filters_ * sizeof(float);
        const int64_t near = std::max<int64_t>(NEAR_BYTES / line_bytes, 1);
        std::fill(of_kernels, of_kernels + kernel_size(), 0.0f);
        for (int64_t first = 0; first < line_count; first += near)
            for (int64_t row = 0; row < KERNEL; row++)
                multiply_transposed(&lines_[first], std::min(near, line_count - first),
                                    stride_ * channels_, row * inputs.line, length, filters_,
                                    of_kernels + row * length * filters_);
    }

    // Write the inputs' gradients to where `connect` was told.
    void differentiate_inputs(const float* kernels) {
        for (int64_t element = 0; element < KERNEL * KERNEL; element++) {
            const int64_t first = element * channels_ * filters_;
            transpose(kernels + first, channels_, filters_, &transposed_[first]);
        }
        for (const Class& pixels : back_) multiply(pixels.rows, pixels.pieces, channels_);
    }

    // Let the inputs' gradients go to the images that they are the outputs' gradients of.
    void connect(Images& of_inputs) {
        for (int64_t a = 0; a < stride_; a++)
            for (int64_t b = 0; b < stride_; b++) back_.push_back(class_of(a, b, of_inputs));
    }

private:
    // Pixels that meet the same elements of the kernels.
    struct Class {
        std::vector<Row> rows;
        std::vector<Piece> pieces;
    };

    // Pixels that lie at `(a, b)` in the patches, or a multiple of the stride further.
    Class class_of(int64_t a, int64_t b, Images& of_inputs) {
        Class pixels;
        for (int64_t y = a; y < KERNEL; y += stride_)
            for (int64_t x = b; x < KERNEL; x += stride_) {
                const int64_t patch = y / stride_ * gradients_.line + x / stride_ * filters_;
                const int64_t element = (y * KERNEL + x) * filters_ * channels_;
                pixels.pieces.push_back({-patch, &transposed_[element], filters_});
            }
        inputs.for_each_line([&](int64_t image, int64_t row) {
            const int64_t y = row + inputs.top;
            for (int64_t column = 0; column < inputs.width; column++) {
                const int64_t x = column + inputs.left;
                if (y % stride_ == a && x % stride_ == b)
                    pixels.rows.push_back({gradients_.at(image, y / stride_, x / stride_),
                                           of_inputs.at(image, row, column)});
            }
        });
        return pixels;
    }

    const float* product(int64_t place) const { return &products_[place * filters_]; }

    Vector normalized(int64_t place, int64_t f) const {
        return (load(product(place) + f) - load(&mean_[f])) * load(&rate_[f]);
    }

    // Batch norm's output at a place.
    Vector output(int64_t place, int64_t f, const float* scale, const float* shift) const {
        return normalized(place, f) * load(scale + f) + load(shift + f);
    }

    Vector greatest_of(int64_t image, int64_t row, int64_t column, int64_t f, const float* scale,
                       const float* shift) {
        Vector greatest = all(-INFINITY);
        for_each_place(image, row, column, [&](int64_t place, float*) {
            const Vector one = output(place, f, scale, shift);
            greatest = one <= greatest ? greatest : one;
        });
        return greatest;
    }

    // Call `body(place, gradient)` for the gradients of all places, from filter `f` on.
    template <class Body>
    void for_each_gradient(int64_t f, Body body) {
        int64_t place = 0;
        gradients_.for_each_line([&](int64_t image, int64_t row) {
            float* gradient = gradients_.at(image, row, 0) + f;
            for (int64_t column = 0; column < gradients_.width; column++, gradient += filters_)
                body(place++, gradient);
        });
    }

    // Call `body(place, gradient)` for the places that an output is made of.
    template <class Body>
    void for_each_place(int64_t image, int64_t row, int64_t column, Body body) {
        const int64_t size = pooled_ ? POOL : 1;
        const int64_t below = std::min((row + 1) * size, gradients_.height);
        const int64_t right = std::min((column + 1) * size, gradients_.width);
        for (int64_t y = row * size; y < below; y++)
            for (int64_t x = column * size; x < right; x++)
                body((image * gradients_.height + y) * gradients_.width + x,
                     gradients_.at(image, y, x));
    }

    // Give each pool's gradient to the first of its greatest outputs.
    void back_through_pools(const float* scale, const float* shift) {
        of_pools_.for_each_line([&](int64_t image, int64_t row) {
            const float* of_pool = of_pools_.at(image, row, 0);
            for (int64_t column = 0; column < of_pools_.width; column++)
                for (int64_t f = 0; f < filters_; f += LANES, of_pool += LANES) {
                    const Vector greatest = greatest_of(image, row, column, f, scale, shift);
                    Vector left = load(of_pool);
                    for_each_place(image, row, column, [&](int64_t place, float* gradient) {
                        const auto less = output(place, f, scale, shift) < greatest;
                        store(gradient + f, less ? Vector{} : left);
                        left = less ? left : Vector{};
                    });
                }
        });
    }

    // Inputs inside the padding of a stride.
    static Images framed(int64_t count, int64_t height, int64_t width, int64_t channels,
                         int64_t stride) {
        const int64_t down = padding_of(height, stride), across = padding_of(width, stride);
        return {count, height, width, channels, down / 2, across / 2, halved(down), halved(across)};
    }

    bool pooled_;
    int64_t stride_;
    int64_t channels_, filters_;
    Images gradients_;  // of the outputs before pooling, then of the products
    Images of_pools_;
    int64_t places_;
    std::vector<float> products_;      // (places, filters)
    std::vector<float> mean_, variance_, rate_;  // rate = 1 / sqrt(variance + epsilon)
    std::vector<float> transposed_;    // kernels (row, column, filter, channel)
    std::vector<Row> forth_;           // patches, and their products
    std::vector<Run> lines_;           // patches, and their gradients, a line of places each
    std::vector<Class> back_;
};

}  // namespace kshot
