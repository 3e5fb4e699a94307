// The kernels without Python: reads test vectors (tests/kernels/make_vectors.py) and checks every entry of kbit.h on every
// instruction set that this machine runs. Sanitizers and emulators run it.
//
//   driver FILE [PROGRAMS]
//
// PROGRAMS (tests/kernels/make_programs.py): integer-only ones, whose logits must be the same bytes everywhere.
//
// Every buffer ends, and then begins, at a page that cannot be touched; what lies between the rows of y must stay as it was.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "driver.h"
#include "kbit.h"
#include "layout.h"

#if defined(__SANITIZE_THREAD__)
#define KBIT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KBIT_TSAN 1
#endif
#endif

namespace driver {

int64_t passed = 0, failed = 0;

void check(bool good, const std::string &name, const char *what, const std::string &detail) {
  ++(good ? passed : failed);
  if (!good && failed <= 20)
    std::printf("FAILED %s: %s, isa %s, %d threads: %s\n", name.c_str(), what, kbit_isa(), kbit_threads(), detail.c_str());
}

}  // namespace driver

namespace {

using namespace driver;
using kbit::PartBytes;

constexpr int kMostThreads = 4, kCallers = 4;
constexpr int64_t kGap = 3;  // floats between the rows of x and of y
constexpr char kMagic[] = "kbit vectors 1\n";

// ---- the file: for each case the numbers below, then arrays, each a length in bytes (int64) and its bytes; little-endian
struct Numbers {
  int64_t n_out, n_in, n_kept, block, k, coding, first, rise, scales, per_tensor, integer_bits, n;
  float step, tensor_scale;
};
enum Array {
  kName,
  kCodes,
  kScale,
  kSecondScale,
  kZero,
  kShift,
  kLevels,
  kIntegerLevels,
  kKeptColumns,
  kKeptWeight,
  kX,
  kWeight,
  kQ,
  kXScale,
  kXSum,
  kInt8,
  kExact,
  kBound,
  kArrays
};
struct Case {
  Numbers numbers;
  std::string arrays[kArrays];
  const char *name() const { return arrays[kName].c_str(); }
  template <typename T>
  const T *array(Array which) const {
    return reinterpret_cast<const T *>(arrays[which].data());
  }
};

std::vector<Case> read_cases(const char *path) {
  std::ifstream file(path, std::ios::binary);
  char magic[sizeof kMagic - 1];
  if (!file.read(magic, sizeof magic) || std::memcmp(magic, kMagic, sizeof magic) != 0)
    stop(std::string(path) + " holds no test vectors");
  std::vector<Case> cases;
  for (Case next; file.read(reinterpret_cast<char *>(&next.numbers), sizeof next.numbers); cases.push_back(next)) {
    for (std::string &array : next.arrays) {
      int64_t bytes = -1;
      file.read(reinterpret_cast<char *>(&bytes), sizeof bytes);
      if (!file || bytes < 0 || bytes > (1 << 30)) stop(std::string(path) + " is damaged");
      array.resize(static_cast<size_t>(bytes));
      file.read(&array[0], bytes);
    }
    if (!file) stop(std::string(path) + " ends too early");
  }
  return cases;
}

// ---- a case in guarded memory
class Placed {
 public:
  Placed(const Case &c, Place place) : numbers(c.numbers), place_(place) {
    const Numbers &n = c.numbers;
    m.n_out = n.n_out;
    m.n_in = n.n_in;
    m.n_kept = n.n_kept;
    m.block = n.block;
    m.k = static_cast<int32_t>(n.k);
    m.coding = static_cast<int32_t>(n.coding);
    m.first = static_cast<int32_t>(n.first);
    m.rise = static_cast<int32_t>(n.rise);
    m.scales = static_cast<int32_t>(n.scales);
    m.per_tensor = static_cast<int32_t>(n.per_tensor);
    m.integer_bits = static_cast<int32_t>(n.integer_bits);
    m.step = n.step;
    m.tensor_scale = n.tensor_scale;
    std::string fault = kbit::fault_of(m);
    if (!fault.empty()) stop(std::string(c.name()) + ": " + fault);
    const PartBytes bytes = kbit::part_bytes(m, !c.arrays[kZero].empty(), !c.arrays[kShift].empty());
    m.codes = part<uint8_t>(c, kCodes, bytes.codes);
    m.scale = part<uint8_t>(c, kScale, bytes.scale);
    m.second_scale = part<uint16_t>(c, kSecondScale, bytes.second_scale);
    m.zero = part<uint8_t>(c, kZero, bytes.zero);
    m.shift = part<uint16_t>(c, kShift, bytes.shift);
    m.levels = part<float>(c, kLevels, bytes.levels);
    m.integer_levels = part<int16_t>(c, kIntegerLevels, bytes.integer_levels);
    m.kept_columns = part<int32_t>(c, kKeptColumns, bytes.kept_columns);
    m.kept_weight = part<uint16_t>(c, kKeptWeight, bytes.kept_weight);
    fault = kbit::fault_of_values(m);
    if (!fault.empty()) stop(std::string(c.name()) + ": " + fault);
  }

  // Memory that lives as long as this does.
  template <typename T>
  T *memory(size_t count) {
    memory_.push_back(std::make_unique<Guarded>(count * sizeof(T), place_));
    return memory_.back()->as<T>();
  }

  kbit_matrix m{};
  const Numbers &numbers;

 private:
  template <typename T>
  const T *part(const Case &c, Array which, int64_t bytes) {
    const std::string &from = c.arrays[which];
    if (static_cast<int64_t>(from.size()) != bytes)
      stop(std::string(c.name()) + ": part " + std::to_string(which) + " has " + std::to_string(from.size()) + " bytes, not " +
           std::to_string(bytes));
    if (from.empty()) return nullptr;
    char *to = memory<char>(from.size());
    std::memcpy(to, from.data(), from.size());
    return reinterpret_cast<const T *>(to);
  }

  std::vector<std::unique_ptr<Guarded>> memory_;
  Place place_;
};

// ---- checks
bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

void check(bool good, const Case &c, const char *what, const std::string &detail) {
  driver::check(good, std::string(c.name()), what, detail);
}

template <typename T>
bool equal(const T *found, const T *expected, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (std::memcmp(&found[i], &expected[i], sizeof(T)) != 0) return false;
  return true;
}
template <>
bool equal(const float *found, const float *expected, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!same(found[i], expected[i])) return false;
  return true;
}

// Rows [begin, end) of x, kGap floats between rows, which are NaN.
float *spread_x(Placed &placed, const Case &c, int64_t begin, int64_t end) {
  const int64_t n_in = c.numbers.n_in, stride = n_in + kGap;
  float *x = placed.memory<float>(static_cast<size_t>((end - begin) * stride - kGap));
  for (int64_t i = 0; i < (end - begin) * stride - kGap; ++i) x[i] = NAN;
  for (int64_t i = begin; i < end; ++i)
    std::memcpy(x + (i - begin) * stride, c.array<float>(kX) + i * n_in, static_cast<size_t>(n_in) * sizeof(float));
  return x;
}

constexpr float kUntouched = -12345.5f;

struct Product {
  std::vector<float> y;  // (n, n_out)
  bool gaps_untouched = true;
  int result = 0;
};

// The product with rows [begin, end) of x; y is in guarded memory of its own, so that callers may run at once.
Product product(const kbit_matrix &m, const float *x, int64_t n, int compute, Place place) {
  const int64_t stride = m.n_out + kGap, size = n * stride - kGap;
  const Guarded memory(static_cast<size_t>(size) * sizeof(float), place);
  float *y = memory.as<float>();
  for (int64_t i = 0; i < size; ++i) y[i] = kUntouched;
  Product done;
  done.result = kbit_product(&m, x, n, m.n_in + kGap, y, stride, compute);
  for (int64_t i = 0; i < n; ++i) {
    done.y.insert(done.y.end(), y + i * stride, y + i * stride + m.n_out);
    for (int64_t j = m.n_out; j < (i + 1 < n ? stride : m.n_out); ++j) done.gaps_untouched &= y[i * stride + j] == kUntouched;
  }
  return done;
}

void check_product(const Case &c, const Product &done, const std::vector<float> &expected, const char *what) {
  size_t at = 0;
  while (at < expected.size() && same(done.y[at], expected[at])) ++at;
  std::string detail = done.result != 0 ? "no memory" : !done.gaps_untouched ? "wrote between the rows of y" : "";
  if (detail.empty() && at < expected.size()) {
    char text[128];
    std::snprintf(text, sizeof text, "y[%zu] is %.9g, not %.9g", at, static_cast<double>(done.y[at]),
                  static_cast<double>(expected[at]));
    detail = text;
  }
  check(detail.empty(), c, what, detail);
}

void check_exact(const Case &c, const Product &done) {
  const float *expected = c.array<float>(kExact), *bound = c.array<float>(kBound);
  for (size_t i = 0; i < done.y.size(); ++i) {
    const float off = std::fabs(done.y[i] - expected[i]);
    if (same(done.y[i], expected[i]) || off <= bound[i]) continue;
    char text[128];
    std::snprintf(text, sizeof text, "y[%zu] is %.9g, not %.9g +- %.3g", i, static_cast<double>(done.y[i]),
                  static_cast<double>(expected[i]), static_cast<double>(bound[i]));
    return check(false, c, "exact", text);
  }
  check(done.result == 0 && done.gaps_untouched, c, "exact", "no memory, or wrote between the rows of y");
}

std::vector<float> rows(const std::vector<float> &y, int64_t n_out, int64_t begin, int64_t end) {
  return {y.begin() + begin * n_out, y.begin() + end * n_out};
}

// All products of a case on the instruction set in use, with each number of threads, and from several callers at once.
void check_products(const Case &c, Place place) {
  Placed placed(c, place);
  const kbit_matrix &m = placed.m;
  const int64_t n = c.numbers.n;
  const float *x = spread_x(placed, c, 0, n), *one = spread_x(placed, c, n - 1, n);
  const float *stored = c.array<float>(kInt8);
  const std::vector<float> int8(stored, stored + n * m.n_out);
  kbit_set_threads(1);
  const Product first = product(m, x, n, KBIT_EXACT, place);
  check_exact(c, first);
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    kbit_set_threads(threads);
    check_product(c, product(m, x, n, KBIT_INT8, place), int8, "int8");
    check_product(c, product(m, one, 1, KBIT_INT8, place), rows(int8, m.n_out, n - 1, n), "int8, one row of x");
    check_product(c, product(m, x, n, KBIT_EXACT, place), first.y, "exact against one thread");
    check_product(c, product(m, one, 1, KBIT_EXACT, place), rows(first.y, m.n_out, n - 1, n), "exact, one row of x");
  }
  Product done[kCallers];
  std::vector<std::thread> callers;
  kbit_set_threads(2);
  for (int i = 0; i < kCallers; ++i)
    callers.emplace_back([&, i] { done[i] = product(m, x, n, i % 2 ? KBIT_EXACT : KBIT_INT8, place); });
  for (std::thread &caller : callers) caller.join();
  for (int i = 0; i < kCallers; ++i) check_product(c, done[i], i % 2 ? first.y : int8, "several callers at once");
}

void check_dequantize(const Case &c, Place place) {
  Placed placed(c, place);
  const kbit_matrix &m = placed.m;
  const float *expected = c.array<float>(kWeight);
  kbit_set_threads(2);
  const int64_t ranges[][2] = {{0, m.n_out}, {m.n_out / 2, m.n_out}, {m.n_out / 3, m.n_out / 3 + 1}, {0, 0}};
  for (const auto &range : ranges) {
    const int64_t count = (range[1] - range[0]) * m.n_in;
    const Guarded out(static_cast<size_t>(count) * sizeof(float), place);
    const int result = kbit_dequantize(&m, range[0], range[1], out.as<float>());
    check(result == 0 && equal(out.as<float>(), expected + range[0] * m.n_in, count), c, "dequantize", "other bits");
  }
}

void check_quantize(const Case &c, Place place) {
  Placed placed(c, place);
  const kbit_matrix &m = placed.m;
  const int64_t coded = m.n_in - m.n_kept, segments = kbit::n_segments(m);
  int8_t *q = placed.memory<int8_t>(static_cast<size_t>(coded));
  float *scale = placed.memory<float>(static_cast<size_t>(segments));
  int32_t *sum = placed.memory<int32_t>(static_cast<size_t>(segments));
  for (int64_t i = 0; i < c.numbers.n; ++i) {
    const float *x = spread_x(placed, c, i, i + 1);
    kbit_quantize_activations(&m, x, q, scale, sum);
    check(equal(q, c.array<int8_t>(kQ) + i * coded, coded), c, "codes of activations", "row " + std::to_string(i));
    check(equal(scale, c.array<float>(kXScale) + i * segments, segments), c, "scales of activations", "row " + std::to_string(i));
    check(equal(sum, c.array<int32_t>(kXSum) + i * segments, segments), c, "sums of activations", "row " + std::to_string(i));
  }
}

// A child that was forked after the pool had started must multiply too.
void check_fork(const Case &c) {
#if !defined(KBIT_TSAN)  // which does not follow threads into a child
  Placed placed(c, kAtEnd);
  const float *x = spread_x(placed, c, 0, c.numbers.n), *stored = c.array<float>(kInt8);
  const std::vector<float> expected(stored, stored + c.numbers.n * placed.m.n_out);
  kbit_set_threads(3);
  product(placed.m, x, c.numbers.n, KBIT_INT8, kAtEnd);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0)
    _exit(equal(product(placed.m, x, c.numbers.n, KBIT_INT8, kAtEnd).y.data(), expected.data(),
                static_cast<int64_t>(expected.size()))
              ? 0
              : 1);
  int status = -1;
  check(child > 0 && waitpid(child, &status, 0) == child && status == 0, c, "after fork", "status " + std::to_string(status));
#else
  (void)c;
#endif
}

std::vector<uint64_t> all_shares() {
  std::vector<uint64_t> shares;
  for (int i = 0; i < kbit_isa_count(); ++i) shares.push_back(kbit_isa_shares(i));
  return shares;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 2 || argc > 3) stop("arguments: the file of test vectors, and one of integer programs");
  const std::vector<Case> cases = read_cases(argv[1]);
  if (cases.empty()) stop("no cases");
  int skipped = 0;
  for (int i = 0; i < kbit_isa_count(); ++i) {
    if (!kbit_isa_runs(i)) {
      std::printf("%s: skipped, this machine cannot run it\n", kbit_isa_name(i));
      ++skipped;
      continue;
    }
    if (kbit_set_isa(kbit_isa_name(i)) != 0 || std::strcmp(kbit_isa(), kbit_isa_name(i)) != 0)
      stop("an instruction set that runs cannot be set");
    const int64_t before = passed + failed;
    const std::vector<uint64_t> shares = all_shares();
    for (const Case &c : cases) {
      for (const Place place : {kAtEnd, kAtStart}) {
        check_products(c, place);
        check_dequantize(c, place);
        check_quantize(c, place);
      }
    }
    if (argc == 3) check_programs(argv[2]);
    check_fork(cases.front());
    for (int j = 0; j < kbit_isa_count(); ++j)
      check((all_shares()[static_cast<size_t>(j)] > shares[static_cast<size_t>(j)]) == (i == j), cases.front(),
            "the instruction set that was set ran, and no other", kbit_isa_name(j));
    std::printf("%s: %lld checks of %zu cases\n", kbit_isa_name(i), static_cast<long long>(passed + failed - before),
                cases.size());
  }
  std::printf("%lld passed, %lld failed, %d skipped\n", static_cast<long long>(passed), static_cast<long long>(failed), skipped);
  return failed == 0 ? 0 : 1;
}
