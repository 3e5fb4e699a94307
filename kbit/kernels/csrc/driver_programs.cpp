// Integer programs without Python: each gives its stored logits, with any number of threads and however its tokens are cut into
// calls. Then numbers in it are changed at random: what the check lets pass must run without harm, which sanitizers see to.
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "driver.h"
#include "fixed_decoder.h"
#include "layout.h"

namespace driver {
namespace {

constexpr char kMagic[] = "kbit programs 1\n";
constexpr int kThreads = 3, kChanges = 60;
constexpr int64_t kMostBytes = 1 << 28;

struct Stored {
  std::string name;
  kbit::FixedProgram program;
  std::vector<std::string> parts;  // codes and scales of the matrices
  std::vector<int64_t> tokens;
  std::vector<int32_t> logits;
};

class Reader {
 public:
  explicit Reader(const char *path) : path_(path), file_(path, std::ios::binary) {
    char magic[sizeof kMagic - 1];
    if (!file_.read(magic, sizeof magic) || std::memcmp(magic, kMagic, sizeof magic) != 0) stop(path_ + " holds no programs");
  }

  bool more() { return file_.peek() != std::ifstream::traits_type::eof(); }
  int64_t number() {
    int64_t value = 0;
    if (!file_.read(reinterpret_cast<char *>(&value), sizeof value)) stop(path_ + " ends too early");
    return value;
  }
  int64_t count() {
    const int64_t value = number();
    if (value < 0 || value > kMostBytes) stop(path_ + " is damaged");
    return value;
  }
  template <class T = int64_t>
  std::vector<T> list() {
    std::vector<T> values(static_cast<size_t>(count()));
    for (T &value : values) value = static_cast<T>(number());
    return values;
  }
  std::string bytes() {
    std::string content(static_cast<size_t>(count()), '\0');
    if (!content.empty() && !file_.read(&content[0], static_cast<std::streamsize>(content.size())))
      stop(path_ + " ends too early");
    return content;
  }
  template <class T>
  std::vector<T> integers() {
    const std::string content = bytes();
    std::vector<T> values(content.size() / sizeof(T));
    if (!content.empty()) std::memcpy(values.data(), content.data(), values.size() * sizeof(T));
    return values;
  }

 private:
  std::string path_;
  std::ifstream file_;
};

Stored read_program(Reader &from) {
  Stored s;
  kbit::FixedProgram &p = s.program;
  s.name = from.bytes();
  p.positions = p.capacity = from.number();
  p.cache.layers = from.number();
  p.cache.kv_heads = from.number();
  p.cache.head = from.number();
  p.cache.k = static_cast<int>(from.number());
  const std::vector<int64_t> buffers = from.list();
  const kbit::FixedKind kinds[] = {kbit::FixedKind::kInt32, kbit::FixedKind::kInt16, kbit::FixedKind::kRows};
  for (size_t i = 0; i + 1 < buffers.size(); i += 2) {
    if (buffers[i + 1] < 0 || buffers[i + 1] > 2) stop(s.name + " has a buffer of no kind");
    p.buffers.push_back({buffers[i], kinds[buffers[i + 1]]});
  }
  for (int64_t i = from.count(); i > 0; --i) {
    kbit_matrix m{};
    m.n_out = from.number();
    m.n_in = from.number();
    m.block = from.number();
    m.k = static_cast<int32_t>(from.number());
    m.first = static_cast<int32_t>(from.number());
    m.scales = static_cast<int32_t>(from.number());
    m.rise = 1;
    m.integer_bits = 8;
    m.step = m.tensor_scale = 1;
    p.matrices.push_back(m);
    s.parts.push_back(from.bytes());
    s.parts.push_back(from.bytes());
    const kbit::PartBytes wanted = kbit::part_bytes(m, false, false);
    if (!kbit::fault_of(m).empty() || static_cast<int64_t>(s.parts[s.parts.size() - 2].size()) != wanted.codes ||
        static_cast<int64_t>(s.parts.back().size()) != wanted.scale)
      stop(s.name + " has a matrix that is none");
  }
  for (int64_t i = from.count(); i > 0; --i) {
    kbit::FixedTensor tensor;
    tensor.bits = static_cast<int>(from.number());
    tensor.sizes = from.list();
    tensor.bytes = from.integers<uint8_t>();
    p.tensors.push_back(tensor);
  }
  for (int64_t i = from.count(); i > 0; --i) p.curves.push_back(from.integers<int32_t>());
  p.exp2 = from.integers<int32_t>();
  for (int64_t i = from.count(); i > 0; --i) {
    kbit::FixedStep step;
    step.op = kbit::fixed_op_of(from.bytes());
    step.table = static_cast<int>(from.number());
    for (auto *operands : {&step.from, &step.to, &step.matrix, &step.multiplier, &step.shift, &step.bias, &step.tensor})
      *operands = from.list<int>();
    step.numbers = from.list();
    p.steps.push_back(step);
  }
  s.tokens = from.integers<int64_t>();
  s.logits = from.integers<int32_t>();
  return s;
}

// A program whose matrices lie between pages that cannot be touched.
class Placed {
 public:
  Placed(const Stored &s, Place place) : program(s.program) {
    for (size_t i = 0; i < program.matrices.size(); ++i) {
      program.matrices[i].codes = part(s.parts[2 * i], place);
      program.matrices[i].scale = part(s.parts[2 * i + 1], place);
    }
  }
  kbit::FixedProgram program;

 private:
  const uint8_t *part(const std::string &from, Place place) {
    memory_.push_back(std::make_unique<Guarded>(from.size(), place));
    std::memcpy(memory_.back()->as<uint8_t>(), from.data(), from.size());
    return memory_.back()->as<uint8_t>();
  }
  std::vector<std::unique_ptr<Guarded>> memory_;
};

void check_logits(const Stored &s, Place place) {
  const Placed placed(s, place);
  const std::string fault = kbit::fault_of(placed.program);
  check(fault.empty(), s.name, "the check of a program", fault);
  if (!fault.empty()) return;
  kbit::FixedDecoder decoder(placed.program);
  const int64_t n = static_cast<int64_t>(s.tokens.size()), width = placed.program.buffers.back().width;
  const auto bytes = static_cast<size_t>(n * width) * sizeof(int32_t);
  for (int threads = 1; threads <= kThreads; ++threads) {
    kbit_set_threads(threads);
    for (const int64_t at_once : {n, int64_t{1}, int64_t{4}}) {
      const Guarded logits(bytes, place);
      decoder.rewind(0);
      for (int64_t i = 0; i < n; i += at_once)
        decoder.run(s.tokens.data() + i, at_once < n - i ? at_once : n - i, logits.as<int32_t>() + i * width, true);
      check(std::memcmp(logits.as<int32_t>(), s.logits.data(), bytes) == 0, s.name, "logits",
            std::to_string(at_once) + " tokens a call");
    }
    const Guarded last(bytes / static_cast<size_t>(n), place);
    decoder.rewind(0);
    decoder.run(s.tokens.data(), n, last.as<int32_t>(), false);
    check(std::memcmp(last.as<int32_t>(), s.logits.data() + (n - 1) * width, bytes / static_cast<size_t>(n)) == 0, s.name,
          "logits of the last token", "");
  }
}

// Numbers of a program changed at random: it is refused, or runs.
void check_changes(const Stored &s) {
  uint64_t state = 88172645463325252u;
  const auto draw = [&state](int64_t below) {  // xorshift (Marsaglia 2003)
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<int64_t>(state % static_cast<uint64_t>(below));
  };
  const int64_t drawn[] = {-1, 0, 1, 2, 3, 8, 16, 63, 64, 257, INT32_MAX, INT64_MAX, INT64_MIN};
  const auto size = [](const auto &values) { return static_cast<int64_t>(values.size()); };
  kbit_set_threads(2);
  for (int i = 0; i < kChanges; ++i) {
    Placed placed(s, kAtEnd);
    kbit::FixedProgram &p = placed.program;
    kbit::FixedStep &step = p.steps[static_cast<size_t>(draw(size(p.steps)))];
    const int64_t value = drawn[draw(sizeof drawn / sizeof *drawn)];
    std::vector<int> *const operands[] = {&step.from,  &step.to,   &step.matrix, &step.multiplier,
                                          &step.shift, &step.bias, &step.tensor};
    std::vector<int> &some = *operands[draw(7)];
    switch (draw(6)) {
      case 0:
      case 1:
        if (!step.numbers.empty()) step.numbers[static_cast<size_t>(draw(size(step.numbers)))] = value;
        break;
      case 2:
      case 3:
        if (!some.empty()) some[static_cast<size_t>(draw(size(some)))] = static_cast<int>(draw(12)) - 1;
        break;
      case 4: p.buffers[static_cast<size_t>(draw(size(p.buffers)))].width = draw(2) ? value : draw(64); break;
      default:
        (draw(2) ? p.cache.head : p.cache.kv_heads) = draw(2) ? value : draw(64);
        p.positions = draw(2) ? p.positions : value;
    }
    if (!kbit::fault_of(p).empty()) continue;
    kbit::FixedDecoder decoder(p);
    std::vector<int32_t> logits(static_cast<size_t>(p.buffers.back().width));
    std::vector<int64_t> tokens(3, p.vocabulary() - 1);
    if (p.capacity >= 3) decoder.run(tokens.data(), 3, logits.data(), false);
  }
  ++passed;
}

}  // namespace

void check_programs(const char *path) {
  Reader reader(path);
  while (reader.more()) {
    const Stored stored = read_program(reader);
    for (const Place place : {kAtEnd, kAtStart}) check_logits(stored, place);
    check_changes(stored);
  }
}

}  // namespace driver
