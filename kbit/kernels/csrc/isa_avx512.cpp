#define LANES avx512
#define KBIT_ISA_NAME "avx512"
#include "each.h"
#include "lanes_avx512.h"
#include "isa.h"

namespace kbit {
extern const Kernels k_avx512;
const Kernels k_avx512 = LANES::kKernels;
}  // namespace kbit
