// Exact products of rows of 8-bit codes with several packed matrices: the rows are laid out once where the matrices agree on how,
// and all tiles are shared out at once.
#pragma once

#include "fixed.h"

namespace kbit {

struct FixedFactor {
  const View *w;
  FixedOutput out;
};

// q: n rows of n_in codes of -127 .. 127. `scratch` keeps its memory from call to call.
void fixed_products(const FixedFactor *factors, int count, const int8_t *q, int64_t n, FixedInput &scratch);

}  // namespace kbit
