// What the parts of the driver share: guarded memory, and a count of checks.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace driver {

[[noreturn]] inline void stop(const std::string &why) {
  std::fprintf(stderr, "driver: %s\n", why.c_str());
  std::exit(2);
}

// ---- memory between two pages that cannot be touched
enum Place { kAtEnd, kAtStart };

class Guarded {
 public:
  Guarded(size_t bytes, Place place) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)),
                 inner = (bytes + page - 1) / page * page + (bytes == 0) * page;
    mapped_ = inner + 2 * page;
    base_ = static_cast<char *>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, inner, PROT_READ | PROT_WRITE) != 0) stop("no memory");
    at_ = base_ + page + (place == kAtEnd ? inner - bytes : 0);
  }
  Guarded(const Guarded &) = delete;
  Guarded &operator=(const Guarded &) = delete;
  ~Guarded() { munmap(base_, mapped_); }
  template <typename T>
  T *as() const {
    return reinterpret_cast<T *>(at_);
  }

 private:
  char *base_, *at_;
  size_t mapped_;
};

// ---- checks
extern int64_t passed, failed;

// Counts one check; says where it fails, for the first few.
void check(bool good, const std::string &name, const char *what, const std::string &detail);

// driver_programs.cpp: the integer programs of a file, on the instruction set in use.
void check_programs(const char *path);

}  // namespace driver
