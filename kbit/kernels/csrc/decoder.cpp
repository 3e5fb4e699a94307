#include "decoder.h"

#include <cstring>

#include "dispatch.h"
#include "pool.h"

namespace kbit {
namespace {

constexpr int64_t kChunk = 256;  // tokens that go through the steps together: what bounds the memory of buffers

}  // namespace

struct Operators {
  static void embed(Decoder &d, const Step &s) {
    const int64_t width = d.width(s.to[0]);
    each_row(d.rows_, [&](int64_t i) {
      float *to = d.row(s.to[0], i);
      const int64_t token = d.tokens_[i];
      if (s.matrix[0] >= 0) {
        const View &table = d.views_[static_cast<size_t>(s.matrix[0])];
        kernels().dequantize(table, token / kRows, token, token + 1, to);
      } else {
        std::memcpy(to, d.vector(s.dense[0]) + token * width, sizeof(float) * static_cast<size_t>(width));
      }
      if (s.value != 1.0f)
        for (int64_t c = 0; c < width; ++c) to[c] *= s.value;
    });
  }

  static void norm(Decoder &d, const Step &s) {
    const int64_t width = d.width(s.from[0]);
    each_row(d.rows_, [&](int64_t i) {
      for (int64_t c = 0; c < width; c += s.width)
        kernels().rms_norm(d.row(s.from[0], i) + c, d.vector(s.vector[0]), s.width, s.value, d.row(s.to[0], i) + c);
    });
  }

  static void linear(Decoder &d, const Step &s) {
    Factor factors[3];
    int count = 0;
    for (int j = 0; j < 3 && s.to[j] >= 0; ++j) {
      if (s.matrix[j] < 0) dense(d, s, j);
      else
        factors[count++] = {&d.views_[static_cast<size_t>(s.matrix[j])], d.vector(s.vector[j]), d.row(s.to[j]), d.width(s.to[j])};
    }
    products(factors, count, d.row(s.from[0]), d.rows_, d.width(s.from[0]), d.compute_, d.scratch_);
  }

  static void dense(Decoder &d, const Step &s, int j) {
    const int64_t n_in = d.width(s.from[0]), n_out = d.width(s.to[j]);
    constexpr int64_t kTogether = 64;  // rows of w
    parallel((n_out + kTogether - 1) / kTogether, [&](int64_t part) {
      const int64_t first = part * kTogether, end = first + kTogether < n_out ? first + kTogether : n_out;
      for (int64_t i = 0; i < d.rows_; ++i) {
        float *y = d.row(s.to[j], i);
        kernels().dense(d.vector(s.dense[j]) + first * n_in, d.row(s.from[0], i), end - first, n_in, y + first);
        if (const float *bias = d.vector(s.vector[j]))
          for (int64_t row = first; row < end; ++row) y[row] += bias[row];
      }
    });
  }

  static void rotate(Decoder &d, const Step &s) {
    const int64_t half = s.width / 2, width = d.width(s.from[0]);
    each_row(d.rows_, [&](int64_t i) {
      const int64_t at = (d.position_ + i) * half;
      for (int64_t c = 0; c < width; c += s.width)
        kernels().rotate(d.row(s.from[0], i) + c, d.cosine_ + at, d.sine_ + at, s.width);
    });
  }

  static void store(Decoder &d, const Step &s) {
    const int64_t head = d.cache_.head;
    for (int64_t i = 0; i < d.rows_; ++i) {
      const int64_t position = d.position_ + i;
      for (int64_t h = 0; h < d.cache_.kv_heads; ++h) {
        float *key = d.keys(s.layer, h) + position / 16 * 16 * head + position % 16;
        for (int64_t c = 0; c < head; ++c) key[16 * c] = d.row(s.from[0], i)[h * head + c];
        std::memcpy(d.values(s.layer, h) + position * head, d.row(s.from[1], i) + h * head,
                    sizeof(float) * static_cast<size_t>(head));
      }
    }
  }

  // Queries that share keys and values, the heads of a group and neighbouring tokens, read them kQueries at a time.
  static void attend(Decoder &d, const Step &s) {
    const int64_t head = d.cache_.head, group = d.width(s.from[0]) / head / d.cache_.kv_heads, queries = d.rows_ * group;
    const int64_t blocks = (queries + kQueries - 1) / kQueries;
    parallel(d.cache_.kv_heads * blocks, [&](int64_t part) {
      const int64_t kv = part / blocks, first = part % blocks * kQueries;
      const int rows = static_cast<int>(queries - first < kQueries ? queries - first : kQueries);
      thread_local std::vector<float> scores;
      const int64_t stride = pad(d.position_ + d.rows_, 16);
      if (static_cast<int64_t>(scores.size()) < kQueries * stride) scores.resize(static_cast<size_t>(kQueries * stride));
      const float *q[kQueries];
      float *out[kQueries];
      int64_t lengths[kQueries];
      for (int r = 0; r < rows; ++r) {
        const int64_t i = (first + r) / group, at = (kv * group + (first + r) % group) * head;
        q[r] = d.row(s.from[0], i) + at;
        out[r] = d.row(s.to[0], i) + at;
        lengths[r] = d.position_ + i + 1;
      }
      const Attention a = {d.keys(s.layer, kv), d.values(s.layer, kv), head, s.value, scores.data(), stride};
      kernels().attend(a, q, lengths, rows, out);
    });
  }

  static void gate(Decoder &d, const Step &s) {
    each_row(d.rows_,
             [&](int64_t i) { kernels().gate(d.row(s.from[0], i), d.row(s.from[1], i), d.width(s.to[0]), d.row(s.to[0], i)); });
  }

  static void add(Decoder &d, const Step &s) {
    each_row(d.rows_, [&](int64_t i) { kernels().add(d.row(s.from[0], i), d.width(s.to[0]), d.row(s.to[0], i)); });
  }

  static void last(Decoder &d, const Step &s) {
    const int64_t width = d.width(s.to[0]), first = d.all_ ? 0 : d.rows_ - 1;
    d.rows_ -= first;
    std::memcpy(d.row(s.to[0]), d.row(s.from[0], first), sizeof(float) * static_cast<size_t>(d.rows_ * width));
  }
};

namespace {
constexpr void (*kOperators[])(Decoder &, const Step &) = {
    Operators::embed,  Operators::norm, Operators::linear, Operators::rotate, Operators::store,
    Operators::attend, Operators::gate, Operators::add,    Operators::last,
};
static_assert(sizeof kOperators / sizeof *kOperators == static_cast<size_t>(Op::kCount), "an operator for each Op");
}  // namespace

Decoder::Decoder(std::vector<Step> steps, std::vector<int64_t> widths, const std::vector<kbit_matrix> &matrices,
                 std::vector<const float *> vectors, const float *cosine, const float *sine, Shape cache)
    : steps_(std::move(steps)),
      widths_(std::move(widths)),
      vectors_(std::move(vectors)),
      cosine_(cosine),
      sine_(sine),
      cache_(cache),
      keys_(static_cast<size_t>(cache.layers * cache.kv_heads * pad(cache.capacity, 16) * cache.head)),
      values_(keys_.size()),
      buffers_(widths_.size()) {
  for (const kbit_matrix &m : matrices) views_.emplace_back(m);
}

void Decoder::run(const int64_t *tokens, int64_t n, float *logits, bool all, int compute) {
  const int64_t width = widths_.back();
  for (int64_t first = 0; first < n; first += kChunk) {
    const int64_t count = n - first < kChunk ? n - first : kChunk;
    run_chunk(tokens + first, count, all ? logits + first * width : logits, all, compute);
  }
}

void Decoder::run_chunk(const int64_t *tokens, int64_t n, float *logits, bool all, int compute) {
  for (size_t b = 0; b < buffers_.size(); ++b)
    if (buffers_[b].size() < static_cast<size_t>(n * widths_[b])) buffers_[b].resize(static_cast<size_t>(n * widths_[b]));
  tokens_ = tokens;
  rows_ = n;
  all_ = all;
  compute_ = compute;
  for (const Step &step : steps_) kOperators[static_cast<size_t>(step.op)](*this, step);
  std::memcpy(logits, buffers_.back().data(), sizeof(float) * static_cast<size_t>(rows_ * widths_.back()));
  position_ += n;
}

}  // namespace kbit
