// The integer algorithms over the lanes that were included before: each fixed_<name>.cpp is this file under its own flags, and
// holds no floating-point arithmetic, which a test sees to.
#pragma once

#include "fixed_operators.h"
#include "fixed_product.h"

namespace kbit {
namespace LANES {

inline uint64_t fixed_shares = 0;  // of products, that this instruction set's own code computed

inline void counted_product(const View &w, const FixedInput &x, int64_t tile, int64_t tile_end, const FixedOutput &out) {
  __atomic_fetch_add(&fixed_shares, 1, __ATOMIC_RELAXED);
  fixed_product(w, x, tile, tile_end, out);
}

constexpr FixedKernels kFixedKernels = {
    &fixed_shares, fixed_prepare, counted_product, fixed_largest_sum, fixed_embed,       fixed_norm,     fixed_quantize,
    fixed_rotate,  fixed_attend,  fixed_gate,      fixed_add,         fixed_add_shifted, fixed_hadamard,
};

}  // namespace LANES
}  // namespace kbit
