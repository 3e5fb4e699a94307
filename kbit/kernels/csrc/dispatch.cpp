#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace kbit {

extern const Kernels k_scalar;
extern const FixedKernels f_scalar;
#if defined(__x86_64__)
extern const Kernels k_avx2, k_avx512, k_avx512_vnni;
extern const FixedKernels f_avx2, f_avx512, f_avx512_vnni;
#elif defined(__aarch64__)
extern const Kernels k_neon, k_neon_dot;
extern const FixedKernels f_neon, f_neon_dot;
#endif

namespace {

bool always() { return true; }
#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("avx");  // and f16c, which every one of these has
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"); }
#elif defined(__aarch64__)
bool has_dot() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & (1 << 20);  // HWCAP_ASIMDDP
#else
  return true;  // every arm64 machine of Apple
#endif
}
#endif

struct Isa {
  const Kernels *kernels;
  const FixedKernels *fixed;
  bool (*runs)();
};
const Isa kIsas[] = {
// best first
#if defined(__x86_64__)
    {&k_avx512_vnni, &f_avx512_vnni, has_avx512_vnni},
    {&k_avx512, &f_avx512, has_avx512},
    {&k_avx2, &f_avx2, has_avx2},
#elif defined(__aarch64__)
    {&k_neon_dot, &f_neon_dot, has_dot},
    {&k_neon, &f_neon, always},
#endif
    {&k_scalar, &f_scalar, always},
};
constexpr int kCount = sizeof kIsas / sizeof *kIsas;

const Isa *named(const char *name) {
  for (const Isa &isa : kIsas)
    if (std::strcmp(isa.kernels->name, name) == 0 && isa.runs()) return &isa;
  return nullptr;
}
const Isa *chosen() {
  if (const char *forced = std::getenv("KBIT_ISA"))
    if (const Isa *found = named(forced)) return found;  // a wrong name is refused in Python, which can say so
  for (const Isa &isa : kIsas)
    if (isa.runs()) return &isa;
  return &kIsas[kCount - 1];
}
std::atomic<const Isa *> in_use{nullptr};

const Isa &now_in_use() {
  const Isa *now = in_use.load(std::memory_order_acquire);
  if (!now) in_use.store(now = chosen(), std::memory_order_release);
  return *now;
}

}  // namespace

const Kernels &kernels() { return *now_in_use().kernels; }
const FixedKernels &fixed_kernels() { return *now_in_use().fixed; }

}  // namespace kbit

extern "C" {

int kbit_isa_count(void) { return kbit::kCount; }
const char *kbit_isa_name(int index) { return kbit::kIsas[index].kernels->name; }
int kbit_isa_runs(int index) { return kbit::kIsas[index].runs(); }
uint64_t kbit_isa_shares(int index) {
  const kbit::Isa &isa = kbit::kIsas[index];
  return __atomic_load_n(isa.kernels->shares_multiplied, __ATOMIC_RELAXED) +
         __atomic_load_n(isa.fixed->shares_multiplied, __ATOMIC_RELAXED);
}
const char *kbit_isa(void) { return kbit::kernels().name; }
int kbit_set_isa(const char *name) {
  const kbit::Isa *found = kbit::named(name);
  if (!found) return -1;
  kbit::in_use.store(found, std::memory_order_release);
  return 0;
}

}  // extern "C"
