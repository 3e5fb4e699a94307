#define LANES avx2
#define KBIT_ISA_NAME "avx2"
#include "each.h"
#include "lanes_avx2.h"
#include "isa.h"

namespace kbit {
extern const Kernels k_avx2;
const Kernels k_avx2 = LANES::kKernels;
}  // namespace kbit
