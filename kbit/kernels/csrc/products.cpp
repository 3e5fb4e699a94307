// The entries of the C interface that compute: prepare the rows of x, then share out the tiles of w.
#include <algorithm>
#include <chrono>
#include <new>
#include <vector>

#include "dispatch.h"
#include "pool.h"
#include "products.h"

namespace kbit {
namespace {

constexpr int64_t kRowsPerPart = 16;  // of x, when they are prepared

void prepare(const View &w, const float *x, int64_t n, int64_t x_stride, int compute, Activations &a) {
  const size_t rows = static_cast<size_t>(n), segments = w.segments.size();
  a.n = n;
  a.x.resize(rows * static_cast<size_t>(w.x_stride));
  a.kept.resize(rows * static_cast<size_t>(w.m.n_kept));
  a.shifted.resize(rows * segments);
  if (compute == KBIT_INT8) {
    a.q.resize(rows * static_cast<size_t>(w.q_stride));
    a.scale.resize(rows * segments);
    a.sum.resize(rows * segments);
    a.start.resize(rows * segments);
  }
  const auto prepare_row = compute == KBIT_INT8 ? kernels().prepare_int8 : kernels().prepare_exact;
  parallel((n + kRowsPerPart - 1) / kRowsPerPart, [&](int64_t part) {
    const int64_t end = (part + 1) * kRowsPerPart < n ? (part + 1) * kRowsPerPart : n;
    for (int64_t i = part * kRowsPerPart; i < end; ++i) prepare_row(w, a, i, x + i * x_stride);
  });
}

// Whether what was prepared for `a` serves `b`.
bool alike(const kbit_matrix &a, const kbit_matrix &b) {
  return a.n_in == b.n_in && a.block == b.block && !a.n_kept && !b.n_kept && a.coding == b.coding && a.k == b.k &&
         a.first == b.first && a.rise == b.rise && a.integer_bits == b.integer_bits && !a.shift == !b.shift;
}

void multiply(const Factor *factors, int count, const Activations &a, int compute) {
  const auto kernel = compute == KBIT_INT8 ? kernels().product_int8 : kernels().product_exact;
  share_tiles(
      count, [&](int j) { return factors[j].w->tiles; },
      [&](int j, int64_t first, int64_t end) {
        const Factor &f = factors[j];
        kernel(*f.w, a, first, end, f.y, f.y_stride);
        if (!f.bias) return;
        const int64_t row_end = end * kRows < f.w->m.n_out ? end * kRows : f.w->m.n_out;
        for (int64_t i = 0; i < a.n; ++i)
          for (int64_t row = first * kRows; row < row_end; ++row) f.y[i * f.y_stride + row] += f.bias[row];
      });
}

}  // namespace

void products(const Factor *factors, int count, const float *x, int64_t n, int64_t x_stride, int compute, Activations &scratch) {
  for (int j = 0; j < count;) {
    int end = j + 1;
    while (end < count && alike(factors[j].w->m, factors[end].w->m)) ++end;
    prepare(*factors[j].w, x, n, x_stride, compute, scratch);
    multiply(factors + j, end - j, scratch, compute);
    j = end;
  }
}
}  // namespace kbit

extern "C" {

int kbit_product(const kbit_matrix *w, const float *x, int64_t n, int64_t x_stride, float *y, int64_t y_stride, int compute) try {
  thread_local kbit::Activations scratch;
  const kbit::View view(*w);
  const kbit::Factor factor = {&view, nullptr, y, y_stride};
  if (n > 0) kbit::products(&factor, 1, x, n, x_stride, compute, scratch);
  return 0;
} catch (const std::bad_alloc &) {
  return -1;
}

int kbit_dequantize(const kbit_matrix *w, int64_t row, int64_t row_end, float *out) try {
  const kbit::View view(*w);
  const int64_t first = row / kbit::kRows, end = (row_end + kbit::kRows - 1) / kbit::kRows;
  kbit::parallel(end - first, [&](int64_t part) { kbit::kernels().dequantize(view, first + part, row, row_end, out); });
  return 0;
} catch (const std::bad_alloc &) {
  return -1;
}

int kbit_quantize_activations(const kbit_matrix *w, const float *x, int8_t *q, float *scale, int32_t *sum) try {
  const kbit::View view(*w);
  kbit::Activations a;
  kbit::prepare(view, x, 1, w->n_in, KBIT_INT8, a);
  for (size_t s = 0; s < view.segments.size(); ++s) {
    const kbit::Segment &segment = view.segments[s];
    const int64_t at = kbit::kGroup * segment.step + segment.column % kbit::kGroup;
    for (int64_t c = segment.column; c < segment.column_end; ++c) q[c] = a.q[static_cast<size_t>(at + c - segment.column)];
    scale[s] = a.scale[s];
    sum[s] = a.sum[s];
  }
  return 0;
} catch (const std::bad_alloc &) {
  return -1;
}

// The median over pieces: a piece takes less than a millisecond, so that few of them meet another process.
double kbit_read_bandwidth(const void *data, size_t bytes, int threads, int rounds) try {
  using clock = std::chrono::steady_clock;
  constexpr size_t kPart = size_t{1} << 20;
  const int before = kbit_threads();
  const int64_t at_once = threads * kbit::kPartsPerThread, parts = static_cast<int64_t>(bytes / kPart);
  kbit_set_threads(threads);
  std::vector<double> rates;
  volatile double sink = 0;
  for (int round = 0; round < rounds; ++round)
    for (int64_t first = 0; first + at_once <= parts; first += at_once) {
      const auto start = clock::now();
      kbit::parallel(at_once, [&](int64_t part) {
        sink = kbit::kernels().read(static_cast<const char *>(data) + static_cast<size_t>(first + part) * kPart, kPart);
      });
      const double seconds = std::chrono::duration<double>(clock::now() - start).count();
      rates.push_back(static_cast<double>(at_once) * static_cast<double>(kPart) / seconds);
    }
  kbit_set_threads(before);
  if (rates.empty()) return 0;
  std::nth_element(rates.begin(), rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
} catch (const std::bad_alloc &) {
  return 0;
}

}  // extern "C"
