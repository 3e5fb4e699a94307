// The algorithm over the lanes that were included before: each isa_<name>.cpp is this file under its own flags.
#pragma once

#include "activations.h"
#include "exact.h"
#include "operators.h"
#include "product.h"

namespace kbit {
namespace LANES {

constexpr Kernels kKernels = {
    KBIT_ISA_NAME, prepare_int8, prepare_exact, product_int8, product_exact, dequantize, read,
    rms_norm,      gate,         add,           dense,        rotate,        attend,
};

}  // namespace LANES
}  // namespace kbit
