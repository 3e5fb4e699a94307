// The algorithm over the lanes that were included before: each isa_<name>.cpp is this file under its own flags.
#pragma once

#include "activations.h"
#include "exact.h"
#include "operators.h"
#include "product.h"

namespace kbit {
namespace LANES {

// How often this instruction set's own code multiplied a share of tiles: the proof, for a test, that it ran and no other did.
inline uint64_t shares_multiplied = 0;

template <void (*PRODUCT)(const View &, const Activations &, int64_t, int64_t, float *, int64_t)>
void counted(const View &w, const Activations &a, int64_t tile, int64_t tile_end, float *y, int64_t y_stride) {
  __atomic_fetch_add(&shares_multiplied, 1, __ATOMIC_RELAXED);
  PRODUCT(w, a, tile, tile_end, y, y_stride);
}

constexpr Kernels kKernels = {
    KBIT_ISA_NAME,
    &shares_multiplied,
    prepare_int8,
    prepare_exact,
    counted<product_int8>,
    counted<product_exact>,
    dequantize,
    read,
    rms_norm,
    gate,
    add,
    dense,
    rotate,
    attend,
};

}  // namespace LANES
}  // namespace kbit
