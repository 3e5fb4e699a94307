#include "fixed_program.h"

#include <algorithm>
#include <set>

#include "dispatch.h"
#include "pool.h"

namespace kbit {
namespace {

constexpr const char *kNames[] = {"embed",  "positions", "hadamard", "rms_norm", "layer_norm", "quantize", "linear",
                                  "rotate", "store",     "attend",   "gate",     "activate",   "add",      "last"};
static_assert(sizeof kNames / sizeof *kNames == static_cast<size_t>(FixedOp::kCount), "a name for each FixedOp");

constexpr int64_t kMostVocabulary = 1 << 24, kMostTransform = 1 << 15, kMostInt32 = INT32_MAX;
constexpr int kMostLeft = 16;

int64_t levels(int64_t k) { return (int64_t{1} << (k - 1)) - 1; }

// One program against itself. The first fault ends the check.
class Check {
 public:
  explicit Check(const FixedProgram &program) : p_(program) {}

  std::string run() {
    whole();
    for (size_t i = 0; i < p_.steps.size() && fault_.empty(); ++i) {
      step_ = &p_.steps[i];
      step();
      if (!fault_.empty()) return "step " + std::to_string(i) + " (" + name() + "): " + fault_;
    }
    need(lasts_ == 1, "it needs one step 'last'");
    if (fault_.empty()) need(written_.back(), "no step writes its logits");
    return fault_;
  }

 private:
  void need(bool holds, const std::string &otherwise) {
    if (!holds && fault_.empty()) fault_ = otherwise;
  }
  const char *name() const { return step_->op < FixedOp::kCount ? kNames[static_cast<size_t>(step_->op)] : "?"; }

  // ---- what steps share
  void whole() {
    need(!p_.buffers.empty() && p_.buffers.back().kind == FixedKind::kInt32, "its last buffer is not one of logits");
    for (const FixedBuffer &buffer : p_.buffers)
      need(buffer.width > 0 && buffer.width <= kMostVocabulary, "a buffer has no width that there is");
    need(p_.positions > 0 && p_.positions < kMostWidth, "its positions are none of 1 to 131071");
    need(p_.capacity > 0 && p_.capacity <= p_.positions, "there is room for no positions, or more than it has");
    const FixedCache &c = p_.cache;
    need(c.layers > 0 && c.layers <= kMostWidth && c.kv_heads > 0 && c.kv_heads <= kMostWidth && c.head > 0 &&
             c.head <= kMostHead && c.k >= 2 && c.k <= 8,
         "its cache has no size that there is");
    if (fault_.empty()) need(c.layers * c.kv_heads * c.head <= int64_t{1} << 40, "its cache has no size that there is");
    need(!p_.steps.empty() && p_.steps.front().op == FixedOp::kEmbed, "its first step does not embed tokens");
    need(p_.exp2.size() == kExp2Knots && p_.exp2.front() == 1 << 30 && p_.exp2.back() == 1 << 29, "its table of 2^-x is another");
    for (size_t i = 1; i < p_.exp2.size() && fault_.empty(); ++i)
      need(p_.exp2[i] < p_.exp2[i - 1] && p_.exp2[i - 1] - p_.exp2[i] < 1 << 22, "its table of 2^-x is another");
    for (const auto &curve : p_.curves) {
      need(curve.size() == kCurveKnots, "a curve has not 2049 knots");
      for (int32_t knot : curve) need(knot >= 0 && knot <= 1 << 15, "a knot of a curve is none of 0 to 32768");
    }
    for (const FixedTensor &tensor : p_.tensors) {
      const auto bytes = static_cast<int64_t>(tensor.bytes.size());
      int64_t count = 1;
      for (int64_t size : tensor.sizes) count = size < 0 || (count > 0 && size > bytes / count) ? -1 : count * size;
      need((tensor.bits == 8 || tensor.bits == 16 || tensor.bits == 32) && tensor.sizes.size() <= 2 && count >= 0 &&
               count * tensor.bits / 8 == bytes,
           "a tensor has no type or shape that there is");
    }
    for (const kbit_matrix &matrix : p_.matrices)
      need(fault_of_integers(matrix).empty(), "a matrix " + fault_of_integers(matrix));
    if (!fault_.empty()) return;
    written_.assign(p_.buffers.size(), false);
    bits_.assign(p_.buffers.size(), 0);
    sums_.assign(p_.matrices.size(), -1);
  }

  void step() {
    const FixedStep &s = *step_;
    for (const auto *buffers : {&s.from, &s.to})
      for (int buffer : *buffers)
        need(buffer >= 0 && buffer < static_cast<int>(p_.buffers.size()), "it names a buffer that there is not");
    for (int matrix : s.matrix) need(matrix >= 0 && matrix < static_cast<int>(p_.matrices.size()), "it names no matrix");
    for (const auto *tensors : {&s.multiplier, &s.shift, &s.bias, &s.tensor})
      for (int tensor : *tensors)
        need(tensor >= -1 && tensor < static_cast<int>(p_.tensors.size()), "it names a tensor that there is not");
    if (!fault_.empty()) return;
    switch (s.op) {
      case FixedOp::kEmbed: embed(); break;
      case FixedOp::kPositions: positions(); break;
      case FixedOp::kHadamard: hadamard(); break;
      case FixedOp::kRmsNorm: norm(); break;
      case FixedOp::kLayerNorm: norm(); break;
      case FixedOp::kQuantize: quantize(); break;
      case FixedOp::kLinear: linear(); break;
      case FixedOp::kRotate: rotate(); break;
      case FixedOp::kStore: store(); break;
      case FixedOp::kAttend: attend(); break;
      case FixedOp::kGate: gate(2); break;
      case FixedOp::kActivate: gate(1); break;
      case FixedOp::kAdd: onto(); break;
      case FixedOp::kLast: onto(); break;
      default: need(false, "there is no such operator");
    }
    const bool of_a_position = s.op == FixedOp::kPositions || s.op == FixedOp::kRotate || s.op == FixedOp::kStore ||
                               s.op == FixedOp::kAttend || s.op == FixedOp::kEmbed;
    need(lasts_ == 0 || !of_a_position, "it knows positions, but comes after 'last'");
    flow();
  }

  // Every buffer is written before it is read, and after 'last', which leaves fewer rows, anew.
  void flow() {
    const FixedStep &s = *step_;
    const bool reads_what_it_writes = s.op == FixedOp::kPositions || s.op == FixedOp::kAdd;
    if (!fault_.empty()) return;
    for (int buffer : s.from) need(written_[static_cast<size_t>(buffer)], "it reads a buffer that no step before it wrote");
    if (reads_what_it_writes) need(written_[static_cast<size_t>(s.to[0])], "it adds to a buffer that no step before it wrote");
    if (s.op == FixedOp::kLast) {
      ++lasts_;
      written_.assign(written_.size(), false);
    }
    for (int buffer : s.to) written_[static_cast<size_t>(buffer)] = true;
  }

  // ---- operators
  void embed() {
    counts(0, 1, 1, 0, 0);
    if (kinds({}, {FixedKind::kInt32})) matrix(0, width(to(0)), -1);
    if (fault_.empty()) proven(step_->matrix[0], 2);  // of which only a row is read: that each code has a level
  }
  void positions() {
    counts(0, 1, 0, 1, 1);
    if (!kinds({}, {FixedKind::kInt32})) return;
    tensor(step_->tensor[0], 16, {p_.positions, width(to(0))});
    number(0, 0, kMostLeft);
  }
  void hadamard() {
    counts(1, 0, 0, 2, 0);
    if (!kinds({FixedKind::kInt32}, {})) return;
    number(0, 1, kMostTransform);
    number(1, 0, 31);
    if (fault_.empty()) transform(step_->numbers[0], width(from(0)));
  }
  void norm() {
    counts(1, 1, 0, 4, 1);
    if (!fault_.empty()) return;
    need(kind(from(0)) != FixedKind::kRows && kind(to(0)) == FixedKind::kInt16, "it does not give 16 bits");
    number(0, 1, kMostWidth);
    number(1, -256, 256);
    number(2, 0, (int64_t{1} << 61) - 1);
    number(3, -32, 64);
    if (!fault_.empty()) return;
    const int64_t each = step_->numbers[0];
    need(width(from(0)) == width(to(0)) && width(to(0)) % each == 0, "its widths differ, or its own divides no row");
    tensor(step_->tensor[0], 16, {each});
    need(step_->bias.size() <= 1, "it has too many operands");
    if (fault_.empty() && !step_->bias.empty() && step_->bias[0] >= 0) tensor(step_->bias[0], 32, {each});
  }
  void quantize() {
    counts(1, 1, 0, 4, 0);
    if (!fault_.empty()) return;
    need(kind(from(0)) != FixedKind::kRows && kind(to(0)) == FixedKind::kRows, "it does not give codes");
    need(width(from(0)) == width(to(0)), "its widths differ");
    number(0, 2, 8);
    number(1, 0, INT16_MAX);
    number(2, 0, 31);
    number(3, 0, kMostTransform);
    if (!fault_.empty()) return;
    transform(step_->numbers[3], width(to(0)));
    bits_[static_cast<size_t>(to(0))] = step_->numbers[0];
  }
  void linear() {
    const int count = static_cast<int>(step_->to.size());
    need(count >= 1 && count <= kMostProducts, "it has none or more than three products");
    counts(1, count, count, 0, 0);
    if (!fault_.empty()) return;
    need(kind(from(0)) == FixedKind::kRows, "it does not read codes");
    need(step_->bias.empty() || static_cast<int>(step_->bias.size()) == count, "it has biases for some of its products");
    for (int j = 0; j < count && fault_.empty(); ++j) {
      need(kind(to(j)) != FixedKind::kRows, "it writes codes");
      matrix(j, width(from(0)), width(to(j)));
      if (fault_.empty() && !step_->bias.empty() && step_->bias[static_cast<size_t>(j)] >= 0)
        tensor(step_->bias[static_cast<size_t>(j)], 32, {width(to(j))});
      if (fault_.empty()) proven(step_->matrix[static_cast<size_t>(j)], bits_[static_cast<size_t>(from(0))]);
    }
  }
  void rotate() {
    counts(1, 0, 0, 2, 2);
    if (!kinds({FixedKind::kInt16}, {})) return;
    number(0, 1, kMostWidth);
    number(1, 2, kMostWidth);
    if (!fault_.empty()) return;
    const int64_t head = step_->numbers[0], rotary = step_->numbers[1];
    need(width(from(0)) % head == 0 && rotary <= head && rotary % 2 == 0,
         "its heads do not divide the row, or its pairs no head");
    for (int i = 0; i < 2 && fault_.empty(); ++i) tensor(step_->tensor[static_cast<size_t>(i)], 16, {p_.positions, rotary / 2});
  }
  void store() {
    counts(2, 0, 0, 2, 0);
    if (!kinds({FixedKind::kInt16, FixedKind::kInt16}, {})) return;
    const int64_t wanted = p_.cache.kv_heads * p_.cache.head;
    need(width(from(0)) == wanted && width(from(1)) == wanted, "its keys and values do not fit the cache");
    number(0, 0, p_.cache.layers - 1);
    number(1, p_.cache.k, p_.cache.k);
    if (fault_.empty()) need(stored_.insert(step_->numbers[0]).second, "its layer is stored already");
  }
  void attend() {
    counts(1, 1, 0, 4, 0);
    if (!kinds({FixedKind::kInt16}, {FixedKind::kInt16})) return;
    need(width(from(0)) == width(to(0)) && width(from(0)) % (p_.cache.kv_heads * p_.cache.head) == 0,
         "its heads do not share out over those of the cache");
    number(0, 0, p_.cache.layers - 1);
    number(1, 0, INT16_MAX);
    number(2, 0, kMostShift);
    number(3, p_.cache.k, p_.cache.k);
    if (fault_.empty()) need(stored_.count(step_->numbers[0]) > 0, "its layer is stored after it, or never");
  }
  void gate(int count) {
    counts(count, 1, 0, 1, 0);
    if (!fault_.empty()) return;
    for (int i = 0; i < count; ++i)
      need(kind(from(i)) == FixedKind::kInt16 && width(from(i)) == width(to(0)), "what it reads is of another kind or width");
    need(kind(to(0)) == FixedKind::kInt32, "its buffers are of other kinds");
    need(step_->table >= 0 && step_->table < static_cast<int>(p_.curves.size()), "it has no curve that there is");
    number(0, 0, 15);
  }
  void onto() {
    counts(1, 1, 0, 0, 0);
    if (kinds({FixedKind::kInt32}, {FixedKind::kInt32})) need(width(from(0)) == width(to(0)), "its widths differ");
  }

  // ---- their parts
  int from(int i) const { return step_->from[static_cast<size_t>(i)]; }
  int to(int i) const { return step_->to[static_cast<size_t>(i)]; }
  int64_t width(int buffer) const { return p_.buffers[static_cast<size_t>(buffer)].width; }
  FixedKind kind(int buffer) const { return p_.buffers[static_cast<size_t>(buffer)].kind; }

  void counts(int from, int to, int matrices, int numbers, int tensors) {
    const FixedStep &s = *step_;
    const auto is = [](size_t found, int wanted) { return found == static_cast<size_t>(wanted); };
    need(is(s.from.size(), from) && is(s.to.size(), to) && is(s.matrix.size(), matrices) && is(s.multiplier.size(), matrices) &&
             is(s.shift.size(), matrices) && is(s.numbers.size(), numbers) && is(s.tensor.size(), tensors) &&
             s.bias.size() <= static_cast<size_t>(matrices + tensors),
         "it has too few or too many operands");
  }
  bool kinds(const std::vector<FixedKind> &from_kinds, const std::vector<FixedKind> &to_kinds) {
    for (size_t i = 0; i < from_kinds.size() && fault_.empty(); ++i)
      need(kind(step_->from[i]) == from_kinds[i], "its buffers are of other kinds");
    for (size_t i = 0; i < to_kinds.size() && fault_.empty(); ++i)
      need(kind(step_->to[i]) == to_kinds[i], "its buffers are of other kinds");
    return fault_.empty();
  }
  void number(size_t i, int64_t low, int64_t high) {
    if (!fault_.empty()) return;
    const int64_t found = step_->numbers[i];
    need(low <= found && found <= high, "number " + std::to_string(i) + " is " + std::to_string(found) + ", not " +
                                            std::to_string(low) + " to " + std::to_string(high));
  }
  const FixedTensor *tensor(int number, int bits, const std::vector<int64_t> &sizes) {
    if (!fault_.empty()) return nullptr;
    need(number >= 0, "it lacks a tensor");
    if (!fault_.empty()) return nullptr;
    const FixedTensor &found = p_.tensors[static_cast<size_t>(number)];
    need(found.bits == bits && found.sizes == sizes, "tensor " + std::to_string(number) + " is of another type or shape");
    return fault_.empty() ? &found : nullptr;
  }
  void transform(int64_t each, int64_t row) {
    need((each & (each - 1)) == 0 && (each < 2 || row % each == 0), "its transform is no power of two that divides the row");
  }
  // Matrix j of the step, (n_out, n_in), with a multiplier and a shift for each row; n_out < 0: any.
  void matrix(int j, int64_t n_in, int64_t n_out) {
    if (!fault_.empty()) return;
    const kbit_matrix &m = p_.matrices[static_cast<size_t>(step_->matrix[static_cast<size_t>(j)])];
    need(m.n_in == n_in && m.n_in < kMostWidth && (n_out < 0 || m.n_out == n_out), "its matrix is of another shape");
    const FixedTensor *multiplier = tensor(step_->multiplier[static_cast<size_t>(j)], 16, {m.n_out});
    const FixedTensor *shift = tensor(step_->shift[static_cast<size_t>(j)], 8, {m.n_out});
    if (!multiplier || !shift) return;
    for (int64_t i = 0; i < m.n_out; ++i) {
      need(multiplier->as<int16_t>()[i] >= 0, "a multiplier is negative");
      need(shift->as<int8_t>()[i] >= 0 && shift->as<int8_t>()[i] <= kMostShift, "a shift is none of 0 to 62");
    }
  }
  // No sum of products of a matrix with codes of k bits leaves int32.
  void proven(int number, int64_t k) {
    int64_t &sum = sums_[static_cast<size_t>(number)];
    if (sum < 0) sum = largest_sum(View(p_.matrices[static_cast<size_t>(number)]));
    need(sum >= 0, "its matrix has a code without a level");
    need(sum * levels(k) <= kMostInt32, "sums of its products can overflow");
  }

  const FixedProgram &p_;
  const FixedStep *step_ = nullptr;
  std::string fault_;
  std::vector<bool> written_;
  std::set<int64_t> stored_;   // layers
  std::vector<int64_t> bits_;  // of the codes in a buffer
  std::vector<int64_t> sums_;  // of a matrix; -1: not known
  int lasts_ = 0;
};

}  // namespace

FixedOp fixed_op_of(const std::string &name) {
  for (size_t i = 0; i < static_cast<size_t>(FixedOp::kCount); ++i)
    if (name == kNames[i]) return static_cast<FixedOp>(i);
  return FixedOp::kCount;
}

int64_t FixedProgram::vocabulary() const {
  int64_t known = INT64_MAX;
  for (const FixedStep &step : steps)
    if (step.op == FixedOp::kEmbed) known = std::min(known, matrices[static_cast<size_t>(step.matrix[0])].n_out);
  return known;
}

std::string fault_of(const FixedProgram &program) { return Check(program).run(); }

std::string fault_of_integers(const kbit_matrix &m) {
  const bool symmetric = m.coding == KBIT_LINEAR && m.k >= 2 && m.k <= 8 && m.rise == 1 && m.first == -levels(m.k);
  if (!symmetric || m.zero || m.shift || m.n_kept) return "has levels that are not the whole numbers from -L to L";
  if (m.per_tensor || (m.scales != KBIT_I8 && !(m.scales == KBIT_F16 && m.block >= m.n_in)))
    return "has neither one scale a row nor an 8-bit scale a block";
  if (m.n_in >= kMostWidth) return "has more than 131071 columns, whose sums can overflow";
  return "";
}

int64_t largest_sum(const View &view) {
  constexpr int64_t kTogether = 16;  // tiles
  std::vector<int64_t> found(static_cast<size_t>((view.tiles + kTogether - 1) / kTogether));
  parallel(static_cast<int64_t>(found.size()), [&](int64_t part) {
    const int64_t first = part * kTogether, end = first + kTogether < view.tiles ? first + kTogether : view.tiles;
    found[static_cast<size_t>(part)] = fixed_kernels().largest_sum(view, first, end);
  });
  const auto ends = std::minmax_element(found.begin(), found.end());
  return *ends.first < 0 ? -1 : *ends.second;
}

}  // namespace kbit
