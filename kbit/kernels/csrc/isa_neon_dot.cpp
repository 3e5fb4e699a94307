#define LANES neon_dot
#define KBIT_ISA_NAME "neon_dot"
#include "each.h"
#include "lanes_neon.h"
#include "isa.h"

namespace kbit {
extern const Kernels k_neon_dot;
const Kernels k_neon_dot = LANES::kKernels;
}  // namespace kbit
