// The Python face of integer-only programs. What a program may be is checked by fixed_program.cpp, before any of it runs.
#include <optional>

#include "bindings.h"
#include "bindings_reader.h"
#include "fixed_decoder.h"

namespace kbit {
namespace {

using Ids = std::vector<int>;

struct FixedStepOf {
  FixedStep step;
  FixedStepOf(const std::string &op, Ids from, Ids to, Ids matrix, Ids multiplier, Ids shift, Ids bias, Ids tensor,
              std::vector<int64_t> numbers, int table) {
    step.op = fixed_op_of(op);
    if (step.op == FixedOp::kCount) throw nb::value_error(("there is no operator '" + op.substr(0, 20) + "'.").c_str());
    step.from = std::move(from);
    step.to = std::move(to);
    step.matrix = std::move(matrix);
    step.multiplier = std::move(multiplier);
    step.shift = std::move(shift);
    step.bias = std::move(bias);
    step.tensor = std::move(tensor);
    step.numbers = std::move(numbers);
    step.table = table;
  }
};

FixedKind kind_of(const std::string &word) {
  if (word == "int16") return FixedKind::kInt16;
  if (word == "int32") return FixedKind::kInt32;
  if (word == "rows") return FixedKind::kRows;
  throw nb::value_error(("a buffer holds '" + word.substr(0, 20) + "', not int16, int32 or rows.").c_str());
}

FixedTensor copy_of(nb::handle tensor) {
  const TensorView view("a tensor", tensor);
  FixedTensor copy;
  copy.bits = view.integer_bits();
  for (int i = 0; i < view.dimensions(); ++i) copy.sizes.push_back(view.size(i));
  const auto *from = static_cast<const uint8_t *>(view.address());
  copy.bytes.assign(from, from + view.nbytes());
  return copy;
}
std::vector<int32_t> knots_of(nb::handle table) {
  const TensorView view("a table", table);
  const auto *from = static_cast<const int32_t *>(view.address<int32_t>({-1}));
  return {from, from + view.size(0)};
}

class PyFixedDecoder {
 public:
  PyFixedDecoder(const std::vector<FixedStepOf> &steps, const std::vector<std::pair<int64_t, std::string>> &buffers,
                 std::vector<nb::object> matrices, const std::vector<nb::object> &tensors, const std::vector<nb::object> &curves,
                 nb::object exp2, const std::vector<int64_t> &cache, int64_t positions, int64_t capacity)
      : kept_(std::move(matrices)) {
    FixedProgram program;
    for (const FixedStepOf &step : steps) program.steps.push_back(step.step);
    for (const auto &buffer : buffers) program.buffers.push_back({buffer.first, kind_of(buffer.second)});
    for (const nb::object &matrix : kept_) program.matrices.push_back(nb::cast<const Matrix &>(matrix).located());
    for (const nb::object &tensor : tensors) program.tensors.push_back(copy_of(tensor));
    for (const nb::object &curve : curves) program.curves.push_back(knots_of(curve));
    program.exp2 = knots_of(exp2);
    if (cache.size() != 4) throw nb::value_error("a cache is layers, heads, numbers of a head and bits.");
    program.cache = {cache[0], cache[1], cache[2], static_cast<int>(cache[3] < 0 || cache[3] > 8 ? 0 : cache[3])};
    program.positions = positions;
    program.capacity = capacity;
    std::string fault;
    {
      nb::gil_scoped_release released;
      fault = fault_of(program);
      if (fault.empty()) decoder_.emplace(std::move(program));
    }
    if (!fault.empty()) throw nb::value_error((fault + ".").c_str());
    vocabulary_ = decoder_->program().vocabulary();
  }

  // Logits of the last token into (1, vocabulary), or of all n with as many rows.
  void run(nb::handle tokens, nb::handle logits) {
    const int64_t width = decoder_->program().buffers.back().width;
    const int64_t room = decoder_->program().capacity - decoder_->position();
    const auto call = checked_call<int32_t>("the integer decoder", tokens, logits, width, room, vocabulary_);
    nb::gil_scoped_release released;
    decoder_->run(call.tokens, call.n, call.logits, call.all);
  }

  int64_t position() const { return decoder_->position(); }
  void rewind(int64_t position) {
    if (position < 0 || position > decoder_->position()) refuse("a position beyond what it has read");
    decoder_->rewind(position);
  }
  int64_t cache_bytes() const { return decoder_->cache_bytes(); }

 private:
  [[noreturn]] static void refuse(const std::string &what) {
    throw nb::value_error(("the integer decoder cannot take " + what + ".").c_str());
  }

  std::vector<nb::object> kept_;  // whose memory the decoder reads
  std::optional<FixedDecoder> decoder_;
  int64_t vocabulary_ = 0;
};

}  // namespace

void bind_fixed(nb::module_ &module) {
  using namespace nb::literals;
  nb::class_<FixedStepOf>(module, "FixedStep")
      .def(nb::init<const std::string &, Ids, Ids, Ids, Ids, Ids, Ids, Ids, std::vector<int64_t>, int>(), nb::kw_only(), "op"_a,
           "from_"_a = Ids{}, "to"_a = Ids{}, "matrix"_a = Ids{}, "multiplier"_a = Ids{}, "shift"_a = Ids{}, "bias"_a = Ids{},
           "tensor"_a = Ids{}, "numbers"_a = std::vector<int64_t>{}, "table"_a = -1);
  nb::class_<PyFixedDecoder>(module, "FixedDecoder")
      .def(nb::init<const std::vector<FixedStepOf> &, const std::vector<std::pair<int64_t, std::string>> &,
                    std::vector<nb::object>, const std::vector<nb::object> &, const std::vector<nb::object> &, nb::object,
                    const std::vector<int64_t> &, int64_t, int64_t>(),
           nb::kw_only(), "steps"_a, "buffers"_a, "matrices"_a, "tensors"_a, "curves"_a, "exp2"_a, "cache"_a, "positions"_a,
           "capacity"_a)
      .def("run", &PyFixedDecoder::run, "tokens"_a, "logits"_a)
      .def("rewind", &PyFixedDecoder::rewind, "position"_a)
      .def_prop_ro("position", &PyFixedDecoder::position)
      .def_prop_ro("cache_bytes", &PyFixedDecoder::cache_bytes);
}

}  // namespace kbit
