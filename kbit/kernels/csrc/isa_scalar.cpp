#define LANES scalar
#define KBIT_ISA_NAME "scalar"
#include "each.h"
#include "lanes_scalar.h"
#include "isa.h"

namespace kbit {
extern const Kernels k_scalar;
const Kernels k_scalar = LANES::kKernels;
}  // namespace kbit
