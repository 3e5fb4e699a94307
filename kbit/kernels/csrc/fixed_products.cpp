#include "fixed_products.h"

#include <new>

#include "dispatch.h"
#include "fixed_program.h"
#include "products.h"

namespace kbit {
namespace {

constexpr int64_t kRowsPerPart = 16;  // when they are laid out

void prepare(const View &w, const int8_t *q, int64_t n, FixedInput &x) {
  const size_t rows = static_cast<size_t>(n);
  x.n = n;
  x.q.resize(rows * static_cast<size_t>(w.q_stride));
  x.start.resize(rows * w.segments.size());
  x.whole.resize(rows);
  parallel((n + kRowsPerPart - 1) / kRowsPerPart, [&](int64_t part) {
    const int64_t end = (part + 1) * kRowsPerPart < n ? (part + 1) * kRowsPerPart : n;
    for (int64_t i = part * kRowsPerPart; i < end; ++i) fixed_kernels().prepare(w, q + i * w.m.n_in, x, i);
  });
}

// Whether what was laid out for `a` serves `b`.
bool alike(const View &a, const View &b) {
  return a.m.n_in == b.m.n_in && a.m.k == b.m.k && a.blocks == b.blocks && (a.blocks == 1 || a.m.block == b.m.block);
}

}  // namespace

void fixed_products(const FixedFactor *factors, int count, const int8_t *q, int64_t n, FixedInput &scratch) {
  for (int j = 0; j < count;) {
    int end = j + 1;
    while (end < count && alike(*factors[j].w, *factors[end].w)) ++end;
    prepare(*factors[j].w, q, n, scratch);
    const FixedFactor *some = factors + j;
    share_tiles(
        end - j, [&](int i) { return some[i].w->tiles; },
        [&](int i, int64_t tile, int64_t tile_end) {
          fixed_kernels().product(*some[i].w, scratch, tile, tile_end, some[i].out);
        });
    j = end;
  }
}

}  // namespace kbit

extern "C" {

int64_t kbit_largest_sum(const kbit_matrix *w) try {
  return kbit::fault_of_integers(*w).empty() ? kbit::largest_sum(kbit::View(*w)) : -1;
} catch (const std::bad_alloc &) {
  return -1;
}

int kbit_fixed_product(const kbit_matrix *w, const int8_t *q, int64_t n, int32_t *y) try {
  thread_local kbit::FixedInput scratch;
  const kbit::View view(*w);
  kbit::FixedFactor factor = {&view, {}};
  factor.out.y = y;
  factor.out.y_stride = w->n_out;
  factor.out.wide = true;
  if (n > 0) kbit::fixed_products(&factor, 1, q, n, scratch);
  return 0;
} catch (const std::bad_alloc &) {
  return -1;
}

}  // extern "C"
