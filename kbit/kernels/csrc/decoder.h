// A decoder: a transformer as one list of steps over a table of operators, from token ids to logits, with a cache of keys and
// values. One call runs all steps; Python is not met on the way.
//
// A step reads and writes buffers, each a matrix (rows, width) of floats with a row to a token. To add an operator: a line in
// Op, a function and a line in kOperators (decoder.cpp), and its name in kbit/kernels/decoder.py.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "products.h"

namespace kbit {

enum class Op : int {
  kEmbed,   // to[0] = rows of matrix[0], or of dense[0], of the tokens, times `value`
  kNorm,    // to[0] = rms_norm(from[0]) * vector[0], epsilon `value`, each `width` numbers by themselves
  kLinear,  // to[j] = from[0] matrix[j]^T + vector[j], j = 0 .. 2 as far as there are any; a matrix may be dense
  kRotate,  // from[0], heads of `width`, in place, by the position of each row
  kStore,   // keys from[0] and values from[1] into the cache of `layer`
  kAttend,  // to[0] = attention of queries from[0] over the cache of `layer`, scores times `value`
  kGate,    // to[0] = silu(from[0]) * from[1]
  kAdd,     // to[0] += from[0]
  kLast,    // to[0] = the last row of from[0]; all rows where logits of all are asked for
  kCount
};

struct Step {
  Op op;
  int from[2] = {-1, -1}, to[3] = {-1, -1, -1};
  int matrix[3] = {-1, -1, -1}, dense[3] = {-1, -1, -1}, vector[3] = {-1, -1, -1};
  int layer = 0;
  int64_t width = 0;
  float value = 0;
};

struct Shape {  // of the cache
  int layers = 0;
  int64_t kv_heads = 0, head = 0, capacity = 0;
};

class Decoder {
 public:
  // widths: of each buffer. matrices, vectors and dense weights (n_out, n_in) stay the caller's, and alive. cosine and sine:
  // (capacity, head / 2). Sizes are the caller's to check.
  Decoder(std::vector<Step> steps, std::vector<int64_t> widths, const std::vector<kbit_matrix> &matrices,
          std::vector<const float *> vectors, const float *cosine, const float *sine, Shape cache);

  int64_t position() const { return position_; }
  void rewind(int64_t position) { position_ = position; }  // not beyond where it is
  int64_t cache_bytes() const { return static_cast<int64_t>((keys_.size() + values_.size()) * sizeof(float)); }

  // Runs n tokens after those so far. logits: one row, of the last token, or n rows with `all`; width: of the last step.
  void run(const int64_t *tokens, int64_t n, float *logits, bool all, int compute);

 private:
  friend struct Operators;

  void run_chunk(const int64_t *tokens, int64_t n, float *logits, bool all, int compute);
  float *row(int buffer, int64_t i = 0) { return buffers_[static_cast<size_t>(buffer)].data() + i * width(buffer); }
  int64_t width(int buffer) const { return widths_[static_cast<size_t>(buffer)]; }
  const float *vector(int index) const { return index < 0 ? nullptr : vectors_[static_cast<size_t>(index)]; }
  int64_t padded() const { return pad(cache_.capacity, 16); }
  float *keys(int layer, int64_t head) { return keys_.data() + (layer * cache_.kv_heads + head) * padded() * cache_.head; }
  float *values(int layer, int64_t head) { return values_.data() + (layer * cache_.kv_heads + head) * padded() * cache_.head; }

  std::vector<Step> steps_;
  std::vector<int64_t> widths_;
  std::vector<View> views_;
  std::vector<const float *> vectors_;
  const float *cosine_, *sine_;
  Shape cache_;
  int64_t position_ = 0;
  std::vector<float> keys_, values_;
  std::vector<std::vector<float>> buffers_;
  Activations scratch_;
  // of the call that runs
  const int64_t *tokens_ = nullptr;
  int64_t rows_ = 0;
  bool all_ = false;
  int compute_ = KBIT_INT8;
};

}  // namespace kbit
