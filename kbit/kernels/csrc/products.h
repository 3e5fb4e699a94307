// Products of one x with several matrices: x is prepared once where they agree on how, and all their tiles are shared out at
// once.
#pragma once

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

}  // namespace kbit
