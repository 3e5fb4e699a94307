#define LANES neon
#include "each.h"
#include "lanes_neon.h"
#include "wide_neon.h"
#include "fixed_isa.h"

namespace kbit {
extern const FixedKernels f_neon;
const FixedKernels f_neon = LANES::kFixedKernels;
}  // namespace kbit
