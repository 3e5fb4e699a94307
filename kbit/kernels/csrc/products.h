// Products of one x with several matrices: x is prepared once where they agree on how, and all their tiles are shared out at
// once.
#pragma once

#include "pool.h"
#include "view.h"

namespace kbit {

struct Factor {
  const View *w;
  const float *bias;  // (n_out), or NULL
  float *y;           // (n, y_stride)
  int64_t y_stride;
};

// factors[j].y = x w_j^T + bias_j for n rows of x, x_stride floats apart. `scratch` keeps its memory from call to call.
void products(const Factor *factors, int count, const float *x, int64_t n, int64_t x_stride, int compute, Activations &scratch);

constexpr int64_t kPartsPerThread = 16;  // so that a thread that was held up leaves little behind

// f(j, first, end) for shares of the tiles of `count` matrices, of which the j-th has tiles_of(j), on all threads.
template <class Tiles, class F>
void share_tiles(int count, Tiles &&tiles_of, F &&f) {
  int64_t tiles = 0;
  for (int j = 0; j < count; ++j) tiles += tiles_of(j);
  const int64_t parts = kbit_threads() > 1 ? kbit_threads() * kPartsPerThread : 1, at_once = (tiles + parts - 1) / parts;
  parallel((tiles + at_once - 1) / at_once, [&](int64_t part) {
    int64_t tile = part * at_once, tile_end = tile + at_once;  // of all matrices, one after another
    for (int j = 0; j < count && tile_end > 0; ++j) {
      const int64_t first = tile > 0 ? tile : 0, end = tile_end < tiles_of(j) ? tile_end : tiles_of(j);
      if (first < end) f(j, first, end);
      tile -= tiles_of(j);
      tile_end -= tiles_of(j);
    }
  });
}

}  // namespace kbit
