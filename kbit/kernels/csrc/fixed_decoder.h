// An integer-only program at work: from token ids to integer logits, with a cache of keys and values of 8 bits. One call runs all
// steps.
//
// The same bytes on every instruction set, for any number of threads, and however tokens are cut into calls.
#pragma once

#include <vector>

#include "fixed_products.h"
#include "fixed_program.h"

namespace kbit {

class FixedDecoder {
 public:
  explicit FixedDecoder(FixedProgram program);  // of which fault_of says nothing
  FixedDecoder(const FixedDecoder &) = delete;
  FixedDecoder &operator=(const FixedDecoder &) = delete;

  int64_t position() const { return position_; }
  void rewind(int64_t position) { position_ = position; }  // not beyond where it is
  int64_t cache_bytes() const;
  const FixedProgram &program() const { return p_; }

  // Reads n tokens, below the vocabulary, after those so far; there must be room. logits: one row, of the last token, or n with
  // `all`.
  void run(const int64_t *tokens, int64_t n, int32_t *logits, bool all);

 private:
  friend struct FixedOperators;

  struct Rows {  // of a buffer, by its kind
    std::vector<int16_t> shorts;
    std::vector<int32_t> ints;
    std::vector<int8_t> codes;
    std::vector<RowStep> steps;
  };
  // A step with what its numbers name, found once. Steps lie one after another: between two tokens all weights pass through the
  // caches, so that each is read from memory anew.
  struct Bound {
    FixedOp op;
    int from[2] = {-1, -1}, to[kMostProducts] = {-1, -1, -1};
    int products = 0;
    int least_shift[kMostProducts] = {};
    const View *matrix[kMostProducts] = {};
    const int16_t *multiplier[kMostProducts] = {};
    const int8_t *shift[kMostProducts] = {};
    const int32_t *bias[kMostProducts] = {};
    const int16_t *tensor[2] = {};
    const int32_t *pairs = nullptr;  // of its curve: a knot and the next together, for one look-up
    int64_t numbers[4] = {};
  };
  Bound bound(const FixedStep &) const;

  void run_chunk(const int64_t *tokens, int64_t n, int32_t *logits, bool all);
  int64_t width(int buffer) const { return p_.buffers[static_cast<size_t>(buffer)].width; }
  bool wide(int buffer) const { return p_.buffers[static_cast<size_t>(buffer)].kind == FixedKind::kInt32; }
  Rows &rows(int buffer) { return buffers_[static_cast<size_t>(buffer)]; }
  int16_t *shorts(int buffer, int64_t i = 0) { return rows(buffer).shorts.data() + i * width(buffer); }
  int32_t *ints(int buffer, int64_t i = 0) { return rows(buffer).ints.data() + i * width(buffer); }
  int8_t *codes(int buffer, int64_t i = 0) { return rows(buffer).codes.data() + i * width(buffer); }
  Integers integers(int buffer, int64_t i, int64_t column) {
    if (wide(buffer)) return {ints(buffer, i) + column, true};
    return {shorts(buffer, i) + column, false};
  }
  template <class T>
  const T *tensor(int number) const {
    return number < 0 ? nullptr : p_.tensors[static_cast<size_t>(number)].as<T>();
  }

  int64_t groups() const { return pad(p_.cache.head, kGroup) / kGroup; }  // of the numbers of a key
  int64_t room() const { return pad(p_.capacity, kRows); }                // positions
  int64_t place(int64_t layer, int64_t head) const { return layer * p_.cache.kv_heads + head; }

  FixedProgram p_;
  std::vector<View> views_;
  std::vector<std::vector<int32_t>> curves_;
  std::vector<int64_t> exp2_;
  std::vector<Bound> steps_;
  int64_t position_ = 0;
  std::vector<uint8_t> keys_, values_;            // as FixedAttention has them, one (layer, head) after another
  std::vector<int16_t> key_steps_, value_steps_;  // (layers, heads, room)
  std::vector<Rows> buffers_;
  FixedInput scratch_;
  // of the call that runs
  const int64_t *tokens_ = nullptr;
  int64_t rows_ = 0;
  bool all_ = false;
};

}  // namespace kbit
