#define LANES avx512_vnni
#define KBIT_ISA_NAME "avx512_vnni"
#include "each.h"
#include "lanes_avx512.h"
#include "isa.h"

namespace kbit {
extern const Kernels k_avx512_vnni;
const Kernels k_avx512_vnni = LANES::kKernels;
}  // namespace kbit
