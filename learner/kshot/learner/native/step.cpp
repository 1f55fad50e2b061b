// One inner step of conv4: the cross-entropy's gradient, and Adam without momentum.
//
// For one task after another, in one thread. Parameters are in the order of the network's layout,
// where kernels are `(filter, channel, row, column)`, but that here the filters come last.

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <new>

#include "block.h"

namespace kshot {

constexpr int BLOCK_COUNT = 4;

// What Python fills: its classes of these names have the same members.
struct Shape {
    int64_t batch, channels, height, width, filters, way;
    float batch_norm_epsilon, second_moment_decay, epsilon, weight_decay_rate;
    int32_t updates_second_moment, pooled;
};

// `StepTables`: contiguous arrays, with room for `capacity` tasks.
struct Tables {
    float *parameters, *scales;
    const bool* way_masks;
    const float* examples;
    const int64_t *drawn, *targets;
    const float* step_sizes;
    float* losses;
    int64_t capacity;
};

// Return `1 / (sqrt(square) + epsilon)`, to a few units in the last place.
inline Vector rate_of(Vector square, float epsilon) {
#if defined(__AVX512F__)
    // Newton's method once, from the processor's estimates: a tenth of the time of two divisions.
    const Vector above = square > 1e-37f ? square : all(1e-37f);
    Vector root = _mm512_rsqrt14_ps(above);
    root = square * root * (1.5f - 0.5f * above * root * root);
    const Vector sum = root + epsilon;
    const Vector rate = _mm512_rcp14_ps(sum);
    return rate * (2 - sum * rate);
#else
    Vector rate;
    for (int l = 0; l < LANES; l++) rate[l] = 1 / (std::sqrt(square[l]) + epsilon);
    return rate;
#endif
}

class Step {
public:
    explicit Step(const Shape& shape) : shape_(shape) {
        int64_t height = shape.height, width = shape.width, channels = shape.channels;
        blocks_.reserve(BLOCK_COUNT);
        for (int b = 0; b < BLOCK_COUNT; b++) {
            blocks_.emplace_back(shape.batch, height, width, channels, shape.filters,
                                 shape.pooled);
            size_ += blocks_[b].size();
            if (b) blocks_[b].connect(blocks_[b - 1].of_outputs());
            height = halved(height), width = halved(width), channels = shape.filters;
        }
        places_ = height * width, features_ = places_ * shape.filters;
        size_ += shape.way * (features_ + 1);
        gradient_.resize(size_), hidden_.resize(shape.batch * features_);
        rows_.resize(hidden_.size()), of_rows_.resize(hidden_.size());
        logits_.resize(shape.batch * shape.way);
        for (int64_t n = 0; n < shape.batch; n++) in_order_.push_back(n);
    }

    // Take the step numbered `number` of the task in a row; return its loss before.
    float take(const Tables& tables, int64_t row, int64_t number) {
        const int64_t place = number * tables.capacity + row;
        float *parameters = tables.parameters + row * size_, *scale = tables.scales + row * size_;
        const int64_t* targets = tables.targets + place * shape_.batch;
        if (shape_.weight_decay_rate != 1)
            for (int64_t p = 0; p < size_; p++) parameters[p] *= shape_.weight_decay_rate;
        enter(tables.examples, tables.drawn + place * shape_.batch);
        const float* at = forward(parameters);
        float* of = gradient_.data() + (at - parameters);
        const float loss =
            differentiate_head(at, of, targets, tables.way_masks + row * shape_.way);
        for (int b = BLOCK_COUNT - 1; b >= 0; b--) {
            at -= blocks_[b].size(), of -= blocks_[b].size();
            const int64_t kernels = blocks_[b].kernel_size(), filters = shape_.filters;
            blocks_[b].back_through_norm(at + kernels, at + kernels + filters, of + kernels,
                                         of + kernels + filters);
            blocks_[b].differentiate_kernels(of);
            if (b) blocks_[b].differentiate_inputs(at);
        }
        update(parameters, scale, tables.step_sizes[place]);
        return tables.losses[place] = loss;
    }

    // Write the logits `(batch, way)` of a batch, and each block's mean and variance.
    void evaluate(const float* parameters, const float* examples, float* logits,
                  float* statistics) {
        enter(examples, in_order_.data());
        forward(parameters);
        std::copy(logits_.begin(), logits_.end(), logits);
        for (const Block& block : blocks_) {
            statistics = std::copy(block.mean().begin(), block.mean().end(), statistics);
            statistics = std::copy(block.variance().begin(), block.variance().end(), statistics);
        }
    }

    // Copy one task's parameters into this order, or from it into that of the layout.
    template <bool ENTERING>
    void reorder(const float* from, float* to) const {
        for (const Block& block : blocks_) {
            const int64_t channels = block.inputs.channels, area = KERNEL * KERNEL;
            for (int64_t first = 0; first < shape_.filters; first += LANES)
                for (int64_t channel = 0; channel < channels; channel++)
                    for (int64_t element = 0; element < area; element++)
                        for (int64_t f = first; f < first + LANES; f++) {
                            const int64_t plain = (f * channels + channel) * area + element;
                            const int64_t ordered =
                                (element * channels + channel) * shape_.filters + f;
                            to[ENTERING ? ordered : plain] = from[ENTERING ? plain : ordered];
                        }
            std::copy(from + block.kernel_size(), from + block.size(), to + block.kernel_size());
            from += block.size(), to += block.size();
        }
        std::copy(from, from + shape_.way * (features_ + 1), to);
    }

    int64_t size() const { return size_; }

private:
    // Bring examples `(channel, row, column)` into the order of the blocks.
    void enter(const float* examples, const int64_t* drawn) {
        Images& inputs = blocks_[0].inputs;
        for (int64_t image = 0; image < inputs.count; image++) {
            const float* from =
                examples + drawn[image] * inputs.channels * inputs.height * inputs.width;
            for (int64_t channel = 0; channel < inputs.channels; channel++)
                for (int64_t row = 0; row < inputs.height; row++) {
                    float* pixel = inputs.at(image, row, 0) + channel;
                    for (int64_t column = 0; column < inputs.width; column++)
                        pixel[column * inputs.channels] = *from++;
                }
        }
    }

    // Where a line of a block's outputs goes: into the next block, or to the head.
    float* output(int block, int64_t image, int64_t row) {
        if (block + 1 < BLOCK_COUNT) return blocks_[block + 1].inputs.at(image, row, 0);
        const Images& outputs = blocks_[block].of_outputs();
        return &hidden_[(image * outputs.height + row) * outputs.width * shape_.filters];
    }

    // Compute the features and the logits of the batch that is inside; return the head's weights.
    //
    // The head sees features as `(filter, row, column)`.
    const float* forward(const float* parameters) {
        const float* at = parameters;
        for (int b = 0; b < BLOCK_COUNT; at += blocks_[b++].size()) {
            const float* batch_norm = at + blocks_[b].kernel_size();
            blocks_[b].convolve(at, shape_.batch_norm_epsilon);
            blocks_[b].activate(batch_norm, batch_norm + shape_.filters,
                                [&](int64_t image, int64_t row) { return output(b, image, row); });
        }
        const float *bias = at + shape_.way * features_, *hidden = hidden_.data();
        for (int64_t n = 0; n < shape_.batch; n++) {
            float* row = &rows_[n * features_];
            for (int64_t place = 0; place < places_; place++)
                for (int64_t f = 0; f < shape_.filters; f++) row[f * places_ + place] = *hidden++;
            for (int64_t w = 0; w < shape_.way; w++)
                logits_[n * shape_.way + w] = bias[w] + dot(row, at + w * features_);
        }
        return at;
    }

    // Write the head's gradient and the last block's, and return the mean cross-entropy.
    //
    // Ways whose mask is false take no part.
    float differentiate_head(const float* weight, float* of_weight, const int64_t* targets,
                             const bool* way_mask) {
        const int64_t way = shape_.way;
        const float share = 1 / float(shape_.batch);
        float *of_bias = of_weight + way * features_, loss = 0;
        std::fill(of_weight, of_bias + way, 0.0f);
        std::fill(of_rows_.begin(), of_rows_.end(), 0.0f);
        for (int64_t n = 0; n < shape_.batch; n++) {
            float *logits = &logits_[n * way], *of_row = &of_rows_[n * features_];
            float highest = -INFINITY, sum = 0;
            for (int64_t w = 0; w < way; w++) {
                if (!way_mask[w]) logits[w] = -INFINITY;
                highest = std::max(logits[w], highest);
            }
            for (int64_t w = 0; w < way; w++) sum += std::exp(logits[w] - highest);
            loss += (std::log(sum) + highest - logits[targets[n]]) * share;
            for (int64_t w = 0; w < way; w++) {
                const float wanted = w == targets[n];
                const float slope = (std::exp(logits[w] - highest) / sum - wanted) * share;
                of_bias[w] += slope;
                add(slope, &rows_[n * features_], of_weight + w * features_);
                add(slope, weight + w * features_, of_row);
            }
            for (int64_t place = 0; place < places_; place++) {
                Images& of = blocks_[BLOCK_COUNT - 1].of_outputs();
                float* to = of.at(n, place / of.width, place % of.width);
                for (int64_t f = 0; f < shape_.filters; f++) to[f] = of_row[f * places_ + place];
            }
        }
        return loss;
    }

    float dot(const float* one, const float* other) const {
        Vector sums{};
        for (int64_t f = 0; f < features_; f += LANES) sums += load(one + f) * load(other + f);
        float sum = 0;
        for (int l = 0; l < LANES; l++) sum += sums[l];
        return sum;
    }

    void add(float factor, const float* row, float* to) const {
        for (int64_t f = 0; f < features_; f += LANES)
            store(to + f, load(to + f) + factor * load(row + f));
    }

    // `v <- beta2 v + (1 - beta2) g^2`, `p <- p - alpha g / (sqrt(v) + epsilon)`; or, where v does
    // not follow the gradients, `p <- p - alpha g rate` with the rates in `scale`.
    void update(float* parameters, float* scale, float step_size) {
        const float decay = shape_.second_moment_decay;
        int64_t p = 0;
        for (; p + LANES <= size_; p += LANES) {
            const Vector gradient = load(&gradient_[p]);
            Vector rate = load(scale + p);
            if (shape_.updates_second_moment) {
                const Vector square = decay * rate + (1 - decay) * gradient * gradient;
                store(scale + p, square);
                rate = rate_of(square, shape_.epsilon);
            }
            store(parameters + p, load(parameters + p) - step_size * gradient * rate);
        }
        for (; p < size_; p++) {
            float rate = scale[p];
            if (shape_.updates_second_moment) {
                scale[p] = decay * rate + (1 - decay) * gradient_[p] * gradient_[p];
                rate = 1 / (std::sqrt(scale[p]) + shape_.epsilon);
            }
            parameters[p] -= step_size * gradient_[p] * rate;
        }
    }

    Shape shape_;
    int64_t places_, features_, size_ = 0;
    std::vector<Block> blocks_;
    std::vector<float> gradient_;                 // like the parameters
    std::vector<float> hidden_, rows_, of_rows_;  // (batch, features), two orders, and gradients
    std::vector<float> logits_;                   // (batch, way)
    std::vector<int64_t> in_order_;               // 0, 1, ...
};

}  // namespace kshot

// Make the buffers of steps; null where there is no memory for them.
extern "C" kshot::Step* kshot_new_step(const kshot::Shape* shape) {
    try {
        return new kshot::Step(*shape);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

extern "C" void kshot_delete_step(kshot::Step* step) { delete step; }

// Copy the parameters of tasks into the step's order, or from it into that of the layout.
extern "C" void kshot_reorder(const kshot::Step* step, int64_t task_count, const float* from,
                              float* to, int32_t entering) {
    for (int64_t task = 0; task < task_count; task++, from += step->size(), to += step->size())
        entering ? step->reorder<true>(from, to) : step->reorder<false>(from, to);
}

// Take steps of `task_count` tasks from a row on, the first of each numbered `numbers[task]`, or
// all `number` where there are none; write the last step's losses.
extern "C" void kshot_take_steps(kshot::Step* step, const kshot::Tables* tables, int64_t first,
                                 int64_t task_count, const int64_t* numbers, int64_t number,
                                 int64_t step_count, float* newest) {
    for (int64_t task = 0; task < task_count; task++)
        for (int64_t s = 0; s < step_count; s++)
            newest[task] =
                step->take(*tables, first + task, (numbers ? numbers[task] : number) + s);
}

// Write the logits `(batch, way)` of a batch of examples, and the mean and variance of each block.
extern "C" void kshot_evaluate(kshot::Step* step, const float* parameters, const float* examples,
                               float* logits, float* statistics) {
    step->evaluate(parameters, examples, logits, statistics);
}
