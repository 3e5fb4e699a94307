// The Python face of the decoder: every step is checked against the sizes of buffers, matrices and vectors before any runs.
#include "bindings.h"
#include "bindings_reader.h"
#include "decoder.h"

namespace kbit {
namespace {

using Ids = std::vector<int>;

Op op_of(const std::string &name) {
  static const char *const kNames[] = {"embed", "norm", "linear", "rotate", "store", "attend", "gate", "add", "last"};
  static_assert(sizeof kNames / sizeof *kNames == static_cast<size_t>(Op::kCount), "a name for each Op");
  for (size_t i = 0; i < static_cast<size_t>(Op::kCount); ++i)
    if (name == kNames[i]) return static_cast<Op>(i);
  throw nb::value_error(("there is no operator '" + name + "'.").c_str());
}

struct StepOf {
  Step step;
  StepOf(const std::string &op, const Ids &from, const Ids &to, const Ids &matrix, const Ids &dense, const Ids &vector, int layer,
         int64_t width, float value) {
    step.op = op_of(op);
    copy(from, step.from);
    copy(to, step.to);
    copy(matrix, step.matrix);
    copy(dense, step.dense);
    copy(vector, step.vector);
    step.layer = layer;
    step.width = width;
    step.value = value;
  }

 private:
  template <size_t N>
  static void copy(const Ids &ids, int (&to)[N]) {
    if (ids.size() > N) throw nb::value_error("a step has more operands than its operator takes.");
    for (size_t i = 0; i < ids.size(); ++i) to[i] = ids[i];
  }
};

class PyDecoder {
 public:
  PyDecoder(const std::vector<StepOf> &steps, std::vector<int64_t> widths, std::vector<nb::object> matrices,
            std::vector<nb::object> vectors, nb::object cosine, nb::object sine, int layers, int64_t kv_heads, int64_t head,
            int64_t capacity)
      : kept_(std::move(matrices)), vectors_(std::move(vectors)), tables_{cosine, sine}, widths_(widths) {
    if (layers < 1 || kv_heads < 1 || head < 2 || head % 2 || capacity < 1) refuse("the sizes of its cache");
    cache_.layers = layers;
    cache_.kv_heads = kv_heads;
    cache_.head = head;
    cache_.capacity = capacity;
    std::vector<kbit_matrix> located;
    for (const nb::object &matrix : kept_) located.push_back(nb::cast<const Matrix &>(matrix).located());
    std::vector<const float *> addresses;
    for (const nb::object &vector : vectors_) {
      const TensorView view("a vector", vector);
      addresses.push_back(static_cast<const float *>(view.address<float>({-1})));
      lengths_.push_back(view.size(0));
    }
    const int64_t half = head / 2;
    const auto *cos = static_cast<const float *>(TensorView("cosine", cosine).address<float>({capacity, half}));
    const auto *sin = static_cast<const float *>(TensorView("sine", sine).address<float>({capacity, half}));
    std::vector<Step> plain;
    for (const StepOf &step : steps) {
      check(step.step, located);
      plain.push_back(step.step);
    }
    if (widths_.empty() || plain.empty() || plain.front().op != Op::kEmbed) refuse("its first step, which must embed tokens");
    decoder_ = std::make_unique<Decoder>(std::move(plain), std::move(widths), located, std::move(addresses), cos, sin, cache_);
  }

  // Logits of the last token into (1, vocabulary), or of all n with as many rows.
  void run(nb::handle tokens, nb::handle logits, const char *compute) {
    const int64_t room = cache_.capacity - decoder_->position();
    const auto call = checked_call<float>("the decoder", tokens, logits, widths_.back(), room, vocabulary_);
    const int how = compute_of(compute);
    nb::gil_scoped_release released;
    decoder_->run(call.tokens, call.n, call.logits, call.all, how);
  }

  int64_t position() const { return decoder_->position(); }
  void rewind(int64_t position) {
    if (position < 0 || position > decoder_->position()) refuse("a position beyond what it has read");
    decoder_->rewind(position);
  }
  int64_t cache_bytes() const { return decoder_->cache_bytes(); }

 private:
  [[noreturn]] static void refuse(const std::string &what) {
    throw nb::value_error(("the decoder cannot take " + what + ".").c_str());
  }

  int64_t width(int buffer) const {
    if (buffer < 0 || buffer >= static_cast<int>(widths_.size())) refuse("a step whose buffer is not there");
    return widths_[static_cast<size_t>(buffer)];
  }
  int64_t length(int vector) const {
    if (vector < 0 || vector >= static_cast<int>(lengths_.size())) refuse("a step whose vector is not there");
    return lengths_[static_cast<size_t>(vector)];
  }
  static void equal(int64_t a, int64_t b, const char *what) {
    if (a != b) refuse(std::string("a step where ") + what + " is " + std::to_string(a) + " and not " + std::to_string(b));
  }

  void check(const Step &s, const std::vector<kbit_matrix> &matrices) {
    const auto matrix = [&](int index) -> const kbit_matrix & {
      if (index < 0 || index >= static_cast<int>(matrices.size())) refuse("a step whose matrix is not there");
      return matrices[static_cast<size_t>(index)];
    };
    switch (s.op) {
      case Op::kEmbed:
        if (s.matrix[0] >= 0) {
          equal(matrix(s.matrix[0]).n_in, width(s.to[0]), "the width of an embedding");
          vocabulary_ = matrix(s.matrix[0]).n_out;
        } else {
          vocabulary_ = length(s.dense[0]) / width(s.to[0]);
          equal(vocabulary_ * width(s.to[0]), length(s.dense[0]), "the size of an embedding");
        }
        break;
      case Op::kNorm:
        equal(width(s.to[0]), width(s.from[0]), "the width of a norm");
        equal(length(s.vector[0]), s.width, "the weight of a norm");
        if (s.width < 1 || width(s.from[0]) % s.width) refuse("a norm whose width does not divide its rows");
        break;
      case Op::kLinear:
        for (int j = 0; j < 3 && s.to[j] >= 0; ++j) {
          if (s.matrix[j] >= 0) {
            equal(matrix(s.matrix[j]).n_in, width(s.from[0]), "n_in of a matrix");
            equal(matrix(s.matrix[j]).n_out, width(s.to[j]), "n_out of a matrix");
          } else {
            equal(length(s.dense[j]), width(s.from[0]) * width(s.to[j]), "the size of a dense matrix");
          }
          if (s.vector[j] >= 0) equal(length(s.vector[j]), width(s.to[j]), "the length of a bias");
        }
        break;
      case Op::kRotate:
        equal(s.width, cache_.head, "the width of a head");
        if (width(s.from[0]) % s.width) refuse("a rotation whose heads do not fill its rows");
        break;
      case Op::kStore:
        equal(width(s.from[0]), cache_.kv_heads * cache_.head, "the width of keys");
        equal(width(s.from[1]), cache_.kv_heads * cache_.head, "the width of values");
        layer(s.layer);
        break;
      case Op::kAttend:
        equal(width(s.to[0]), width(s.from[0]), "the width of attention");
        if (width(s.from[0]) % (cache_.kv_heads * cache_.head)) refuse("queries that do not share out over the heads");
        layer(s.layer);
        break;
      case Op::kGate:
        equal(width(s.from[1]), width(s.from[0]), "the width of a gate");
        equal(width(s.to[0]), width(s.from[0]), "the width of what is gated");
        break;
      default: equal(width(s.to[0]), width(s.from[0]), "the width of a sum");
    }
  }
  void layer(int index) const {
    if (index < 0 || index >= cache_.layers) refuse("a step of a layer that its cache does not have");
  }

  std::vector<nb::object> kept_, vectors_;  // whose memory the decoder reads
  nb::object tables_[2];
  std::vector<int64_t> widths_, lengths_;
  Shape cache_;
  int64_t vocabulary_ = 0;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace

void bind_decoder(nb::module_ &module) {
  using namespace nb::literals;
  nb::class_<StepOf>(module, "Step")
      .def(nb::init<const std::string &, const Ids &, const Ids &, const Ids &, const Ids &, const Ids &, int, int64_t, float>(),
           nb::kw_only(), "op"_a, "from_"_a, "to"_a, "matrix"_a = Ids{}, "dense"_a = Ids{}, "vector"_a = Ids{}, "layer"_a = 0,
           "width"_a = 0, "value"_a = 1.0f);
  nb::class_<PyDecoder>(module, "Decoder")
      .def(nb::init<const std::vector<StepOf> &, std::vector<int64_t>, std::vector<nb::object>, std::vector<nb::object>,
                    nb::object, nb::object, int, int64_t, int64_t, int64_t>(),
           nb::kw_only(), "steps"_a, "widths"_a, "matrices"_a, "vectors"_a, "cosine"_a, "sine"_a, "layers"_a, "kv_heads"_a,
           "head"_a, "capacity"_a)
      .def("run", &PyDecoder::run, "tokens"_a, "logits"_a, "compute"_a)
      .def("rewind", &PyDecoder::rewind, "position"_a)
      .def_prop_ro("position", &PyDecoder::position)
      .def_prop_ro("cache_bytes", &PyDecoder::cache_bytes);
}

}  // namespace kbit
