// A small pool of threads that lives as long as the process: no thread is made or ended by a product.
//
// The caller works too. One call at a time has the pool; a second one, from another thread, runs in its own thread alone, which
// changes no result. Idle threads look for work for a few microseconds, then sleep, so that they take no core from torch.
#pragma once

#include <cstdint>

namespace kbit {

// body(context, part) for every part in [0, parts), in any order, on at most kbit_threads() threads; returns when all are done.
void parallel(int64_t parts, void (*body)(void *context, int64_t part), void *context);

template <class F>
void parallel(int64_t parts, F &&f) {
  parallel(parts, [](void *context, int64_t part) { (*static_cast<F *>(context))(part); }, &f);
}

// f(row) for all rows, shared out where there are many.
template <class F>
void each_row(int64_t rows, F &&f) {
  constexpr int64_t kTogether = 8;
  if (rows == 1) return f(0);
  parallel((rows + kTogether - 1) / kTogether, [&](int64_t part) {
    for (int64_t i = part * kTogether; i < (part + 1) * kTogether && i < rows; ++i) f(i);
  });
}

}  // namespace kbit
