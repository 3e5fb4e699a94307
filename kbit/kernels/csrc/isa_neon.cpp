#define LANES neon
#define KBIT_ISA_NAME "neon"
#include "each.h"
#include "lanes_neon.h"
#include "isa.h"

namespace kbit {
extern const Kernels k_neon;
const Kernels k_neon = LANES::kKernels;
}  // namespace kbit
