#include "fixed_decoder.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "pool.h"

namespace kbit {
namespace {

constexpr int64_t kChunk = 256;  // tokens that go through the steps together: what bounds the memory of buffers

// Room for a row of `width` numbers, this thread's own.
int32_t *scratch(int64_t width) {
  thread_local std::vector<int32_t> memory;
  const size_t wanted = static_cast<size_t>(pad(width, kRows));
  if (memory.size() < wanted) memory.resize(wanted);
  return memory.data();
}

}  // namespace

struct FixedOperators {
  using Step = FixedDecoder::Bound;

  static void embed(FixedDecoder &d, const Step &s) {
    each_row(d.rows_, [&](int64_t i) {
      const int64_t token = d.tokens_[i];
      fixed_kernels().embed(*s.matrix[0], token, s.multiplier[0][token], s.shift[0][token], d.ints(s.to[0], i));
    });
  }

  static void positions(FixedDecoder &d, const Step &s) {
    const int64_t width = d.width(s.to[0]);
    each_row(d.rows_, [&](int64_t i) {
      const int16_t *row = s.tensor[0] + (d.position_ + i) * width;
      fixed_kernels().add_shifted(row, static_cast<int>(s.numbers[0]), width, d.ints(s.to[0], i));
    });
  }

  static void hadamard(FixedDecoder &d, const Step &s) {
    const int64_t width = d.width(s.from[0]);
    each_row(d.rows_, [&](int64_t i) {
      fixed_kernels().hadamard(d.ints(s.from[0], i), width, s.numbers[0], static_cast<int>(s.numbers[1]), scratch(width));
    });
  }

  static void norm(FixedDecoder &d, const Step &s) {
    const FixedNorm norm = {s.tensor[0],
                            s.bias[0],
                            s.numbers[0],
                            s.numbers[2],
                            static_cast<int>(s.numbers[1]),
                            static_cast<int>(s.numbers[3]),
                            s.op == FixedOp::kLayerNorm};
    each_row(d.rows_, [&](int64_t i) {
      for (int64_t c = 0; c < d.width(s.to[0]); c += norm.width)
        fixed_kernels().norm(norm, d.integers(s.from[0], i, c), d.shorts(s.to[0], i) + c, scratch(norm.width));
    });
  }

  static void quantize(FixedDecoder &d, const Step &s) {
    const FixedCodes how = {static_cast<int>(s.numbers[0]), static_cast<int32_t>(s.numbers[1]),
                            static_cast<int32_t>(s.numbers[2]), s.numbers[3]};
    const int64_t width = d.width(s.to[0]);
    each_row(d.rows_, [&](int64_t i) {
      d.rows(s.to[0]).steps[static_cast<size_t>(i)] =
          fixed_kernels().quantize(how, d.integers(s.from[0], i, 0), width, d.codes(s.to[0], i), scratch(width));
    });
  }

  static void linear(FixedDecoder &d, const Step &s) {
    FixedFactor factors[kMostProducts];
    for (int j = 0; j < s.products; ++j) {
      FixedOutput &out = factors[j].out;
      factors[j].w = s.matrix[j];
      out.multiplier = s.multiplier[j];
      out.shift = s.shift[j];
      out.least_shift = s.least_shift[j];
      out.bias = s.bias[j];
      out.steps = d.rows(s.from[0]).steps.data();
      out.wide = d.wide(s.to[j]);
      out.y = out.wide ? static_cast<void *>(d.ints(s.to[j])) : d.shorts(s.to[j]);
      out.y_stride = d.width(s.to[j]);
    }
    fixed_products(factors, s.products, d.codes(s.from[0]), d.rows_, d.scratch_);
  }

  static void rotate(FixedDecoder &d, const Step &s) {
    const int64_t head = s.numbers[0], half = s.numbers[1] / 2;
    each_row(d.rows_, [&](int64_t i) {
      const int64_t at = (d.position_ + i) * half;
      for (int64_t c = 0; c < d.width(s.from[0]); c += head)
        fixed_kernels().rotate(d.shorts(s.from[0], i) + c, s.tensor[0] + at, s.tensor[1] + at, half);
    });
  }

  static void store(FixedDecoder &d, const Step &s) {
    const int64_t head = d.p_.cache.head, room = d.room(), groups = d.groups();
    const FixedCodes how = {static_cast<int>(s.numbers[1]), 0, 0, 0};
    each_row(d.rows_, [&](int64_t i) {
      const int64_t position = d.position_ + i, first = d.place(s.numbers[0], 0);
      uint8_t *const keys = d.keys_.data() + position / kRows * 64 * groups + position % kRows * kGroup;
      uint8_t *const values = d.values_.data() + position / kGroup * 64 + position % kGroup;
      const int64_t key_bytes = room * kGroup * groups, value_bytes = room * pad(head, kRows);  // of a head
      for (int64_t place = first; place < first + d.p_.cache.kv_heads;
           ++place) {  // no cache holds them: all are asked for at once
        for (int64_t g = 0; g < groups; ++g) __builtin_prefetch(keys + place * key_bytes + 64 * g, 1);
        for (int64_t c = 0; c < head; c += kRows) __builtin_prefetch(values + place * value_bytes + c * room, 1);
      }
      for (int64_t h = 0; h < d.p_.cache.kv_heads; ++h) {
        const int64_t place = first + h;
        int8_t q[kMostHead + kGroup] = {};
        RowStep step = fixed_kernels().quantize(how, d.integers(s.from[0], i, h * head), head, q, nullptr);
        d.key_steps_[static_cast<size_t>(place * room + position)] = static_cast<int16_t>(step.a);
        for (int64_t g = 0; g < groups; ++g) {
          uint32_t four;
          std::memcpy(&four, q + kGroup * g, sizeof four);
          four ^= 0x80808080;  // each 128 up
          std::memcpy(keys + place * key_bytes + 64 * g, &four, sizeof four);
        }
        step = fixed_kernels().quantize(how, d.integers(s.from[1], i, h * head), head, q, nullptr);
        d.value_steps_[static_cast<size_t>(place * room + position)] = static_cast<int16_t>(step.a);
        for (int64_t c = 0; c < head; c += kRows) {
          uint8_t *to = values + place * value_bytes + c * room;
          for (int64_t r = 0; r < kRows && c + r < head; ++r) to[kGroup * r] = static_cast<uint8_t>(q[c + r] + 128);
        }
      }
    });
  }

  // Queries that share keys and values, the heads of a group and neighbouring tokens, read them kQueries at a time.
  static void attend(FixedDecoder &d, const Step &s) {
    const FixedCache &cache = d.p_.cache;
    const int64_t head = cache.head, group = d.width(s.from[0]) / head / cache.kv_heads, queries = d.rows_ * group;
    const int64_t blocks = (queries + kQueries - 1) / kQueries, room = d.room();
    parallel(cache.kv_heads * blocks, [&](int64_t part) {
      const int64_t kv = part / blocks, first = part % blocks * kQueries, place = d.place(s.numbers[0], kv);
      const int rows = static_cast<int>(queries - first < kQueries ? queries - first : kQueries);
      thread_local std::vector<int32_t> scores;
      const int64_t stride = pad(d.position_ + d.rows_, kRows);
      if (static_cast<int64_t>(scores.size()) < kQueries * stride) scores.resize(static_cast<size_t>(kQueries * stride));
      const int16_t *q[kQueries];
      int16_t *out[kQueries];
      int64_t lengths[kQueries];
      for (int r = 0; r < rows; ++r) {
        const int64_t i = (first + r) / group, at = (kv * group + (first + r) % group) * head;
        q[r] = d.shorts(s.from[0], i) + at;
        out[r] = d.shorts(s.to[0], i) + at;
        lengths[r] = d.position_ + i + 1;
      }
      const FixedAttention a = {d.keys_.data() + place * room / kRows * 64 * d.groups(),
                                d.values_.data() + place * room * pad(head, kRows),
                                d.key_steps_.data() + place * room,
                                d.value_steps_.data() + place * room,
                                head,
                                room,
                                static_cast<int>(s.numbers[1]),
                                static_cast<int>(s.numbers[2]),
                                static_cast<int>(s.numbers[3]),
                                d.exp2_.data(),
                                scores.data(),
                                stride};
      fixed_kernels().attend(a, q, lengths, rows, out);
    });
  }

  static void gate(FixedDecoder &d, const Step &s) {
    const int64_t width = d.width(s.to[0]);
    each_row(d.rows_, [&](int64_t i) {
      const int16_t *up = s.op == FixedOp::kGate ? d.shorts(s.from[1], i) : nullptr;
      fixed_kernels().gate(d.shorts(s.from[0], i), up, width, static_cast<int>(s.numbers[0]), s.pairs, d.ints(s.to[0], i));
    });
  }

  static void add(FixedDecoder &d, const Step &s) {
    each_row(d.rows_, [&](int64_t i) { fixed_kernels().add(d.ints(s.from[0], i), d.width(s.to[0]), d.ints(s.to[0], i)); });
  }

  static void last(FixedDecoder &d, const Step &s) {
    const int64_t width = d.width(s.to[0]), first = d.all_ ? 0 : d.rows_ - 1;
    d.rows_ -= first;
    std::memmove(d.ints(s.to[0]), d.ints(s.from[0], first), sizeof(int32_t) * static_cast<size_t>(d.rows_ * width));
  }
};

namespace {
constexpr void (*kOperators[])(FixedDecoder &, const FixedOperators::Step &) = {
    FixedOperators::embed,    FixedOperators::positions, FixedOperators::hadamard, FixedOperators::norm,  FixedOperators::norm,
    FixedOperators::quantize, FixedOperators::linear,    FixedOperators::rotate,   FixedOperators::store, FixedOperators::attend,
    FixedOperators::gate,     FixedOperators::gate,      FixedOperators::add,      FixedOperators::last,
};
static_assert(sizeof kOperators / sizeof *kOperators == static_cast<size_t>(FixedOp::kCount), "an operator for each FixedOp");
}  // namespace

FixedDecoder::FixedDecoder(FixedProgram program) : p_(std::move(program)), buffers_(p_.buffers.size()) {
  const size_t heads = static_cast<size_t>(p_.cache.layers * p_.cache.kv_heads * room());
  keys_.resize(heads * static_cast<size_t>(kGroup * groups()));
  values_.resize(heads * static_cast<size_t>(pad(p_.cache.head, kRows)), 128);
  key_steps_.resize(heads);
  value_steps_.resize(heads);
  for (size_t i = 0; i + 1 < p_.exp2.size(); ++i)
    exp2_.push_back(int64_t{p_.exp2[i] - p_.exp2[i + 1]} << 32 | int64_t{p_.exp2[i]});
  for (const kbit_matrix &m : p_.matrices) views_.emplace_back(m);
  for (const std::vector<int32_t> &curve : p_.curves) {
    curves_.emplace_back(curve.size());
    for (size_t i = 0; i < curve.size(); ++i) {
      const int32_t next = curve[i + 1 < curve.size() ? i + 1 : i];
      curves_.back()[i] = static_cast<int32_t>(static_cast<uint32_t>(next) << 16 | static_cast<uint32_t>(curve[i]));
    }
  }
  for (const FixedStep &step : p_.steps) steps_.push_back(bound(step));
}

FixedDecoder::Bound FixedDecoder::bound(const FixedStep &step) const {
  Bound b;
  b.op = step.op;
  b.products = static_cast<int>(step.matrix.size());
  std::copy(step.from.begin(), step.from.end(), b.from);
  std::copy(step.to.begin(), step.to.end(), b.to);
  std::copy(step.numbers.begin(), step.numbers.end(), b.numbers);
  for (size_t j = 0; j < step.matrix.size(); ++j) {
    const FixedTensor &shifts = p_.tensors[static_cast<size_t>(step.shift[j])];
    b.matrix[j] = &views_[static_cast<size_t>(step.matrix[j])];
    b.multiplier[j] = tensor<int16_t>(step.multiplier[j]);
    b.shift[j] = shifts.as<int8_t>();
    b.least_shift[j] = *std::min_element(b.shift[j], b.shift[j] + shifts.bytes.size());
  }
  for (size_t j = 0; j < step.bias.size(); ++j) b.bias[j] = tensor<int32_t>(step.bias[j]);
  for (size_t j = 0; j < step.tensor.size(); ++j) b.tensor[j] = tensor<int16_t>(step.tensor[j]);
  if (step.op == FixedOp::kGate || step.op == FixedOp::kActivate) b.pairs = curves_[static_cast<size_t>(step.table)].data();
  return b;
}

int64_t FixedDecoder::cache_bytes() const {
  return static_cast<int64_t>(keys_.size() + values_.size() + sizeof(int16_t) * (key_steps_.size() + value_steps_.size()));
}

void FixedDecoder::run(const int64_t *tokens, int64_t n, int32_t *logits, bool all) {
  const int64_t width = p_.buffers.back().width;
  for (int64_t first = 0; first < n; first += kChunk) {
    const int64_t count = n - first < kChunk ? n - first : kChunk;
    run_chunk(tokens + first, count, all ? logits + first * width : logits, all);
  }
}

void FixedDecoder::run_chunk(const int64_t *tokens, int64_t n, int32_t *logits, bool all) {
  for (size_t b = 0; b < buffers_.size(); ++b) {
    const size_t count = static_cast<size_t>(n * p_.buffers[b].width);
    Rows &rows = buffers_[b];
    switch (p_.buffers[b].kind) {
      case FixedKind::kInt16: rows.shorts.resize(std::max(rows.shorts.size(), count)); break;
      case FixedKind::kInt32: rows.ints.resize(std::max(rows.ints.size(), count)); break;
      case FixedKind::kRows:
        rows.codes.resize(std::max(rows.codes.size(), count));
        rows.steps.resize(std::max(rows.steps.size(), static_cast<size_t>(n)));
    }
  }
  tokens_ = tokens;
  rows_ = n;
  all_ = all;
  for (const Bound &step : steps_) kOperators[static_cast<size_t>(step.op)](*this, step);
  std::memcpy(logits, ints(static_cast<int>(buffers_.size()) - 1),
              sizeof(int32_t) * static_cast<size_t>(rows_ * p_.buffers.back().width));
  position_ += n;
}

}  // namespace kbit
