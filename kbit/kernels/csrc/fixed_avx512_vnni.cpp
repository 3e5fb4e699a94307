#define LANES avx512_vnni
#include "each.h"
#include "lanes_avx512.h"
#include "wide_avx512.h"
#include "fixed_isa.h"

namespace kbit {
extern const FixedKernels f_avx512_vnni;
const FixedKernels f_avx512_vnni = LANES::kFixedKernels;
}  // namespace kbit
