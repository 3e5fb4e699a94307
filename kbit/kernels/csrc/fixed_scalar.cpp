#define LANES scalar
#include "each.h"
#include "lanes_scalar.h"
#include "wide_scalar.h"
#include "fixed_isa.h"

namespace kbit {
extern const FixedKernels f_scalar;
const FixedKernels f_scalar = LANES::kFixedKernels;
}  // namespace kbit
