#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kbit.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kbit {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long an idle thread looks for work before it sleeps: longer than the last part of a product takes, and what a decoder does
// from one product to the next. Who sleeps is woken late, and with two threads each product would wait for it.
constexpr auto kPatience = std::chrono::microseconds(200);

// Whether `ready()` within that time, looked at without a pause of more than some nanoseconds.
template <class Ready>
bool soon(Ready &&ready) {
  constexpr int kLooks = 64;  // between two looks at the clock
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int looks = 0; looks < kLooks; ++looks) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

struct Job {
  void (*body)(void *, int64_t);
  void *context;
  int64_t parts;
};

class Pool {
 public:
  // Runs `job` on the caller and up to `helpers` threads.
  void run(const Job &job, int helpers) {
    while (static_cast<int>(threads_.size()) < helpers)
      threads_.emplace_back([this, i = static_cast<int>(threads_.size())] { serve(i); });
    job_ = job;
    helpers_ = helpers;
    next_.store(0, std::memory_order_relaxed);
    inside_.fetch_sub(kClosed, std::memory_order_seq_cst);
    round_.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    work(job);
    inside_.fetch_add(kClosed, std::memory_order_seq_cst);
    while (!soon([this] { return inside_.load(std::memory_order_acquire) == kClosed; })) std::this_thread::yield();
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_.store(true, std::memory_order_seq_cst);
      round_.fetch_add(1, std::memory_order_seq_cst);
      wake_.notify_all();
    }
    for (std::thread &thread : threads_) thread.join();
  }

  std::mutex busy;

 private:
  void work(const Job &job) {
    for (int64_t part; (part = next_.fetch_add(1, std::memory_order_relaxed)) < job.parts;) job.body(job.context, part);
  }

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      if (!soon([&] { return round_.load(std::memory_order_acquire) != seen; })) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return round_.load(std::memory_order_seq_cst) != seen; });
        sleeping_.fetch_sub(1, std::memory_order_seq_cst);
      }
      if (ending_.load(std::memory_order_acquire)) return;
      seen = round_.load(std::memory_order_acquire);
      if (inside_.fetch_add(1, std::memory_order_acquire) >= 0 && index < helpers_) work(job_);
      inside_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  Job job_{};        // written while nobody is inside
  int helpers_ = 0;  // the same
  std::atomic<int64_t> next_{0};
  // Threads at the job, and kClosed where none may begin: a caller waits for those that came, never for one that has not woken.
  static constexpr int kClosed = -(1 << 24);
  std::atomic<int> inside_{kClosed}, sleeping_{0};
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> ending_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

std::atomic<int> wanted{0};  // threads, the caller among them; 0: as many as there are cores
Pool *pool = nullptr;
std::mutex making;

// A forked child has the caller's thread alone: it begins with a pool of its own, and leaves the memory of the old one.
void after_fork() {
  pool = nullptr;
  new (&making) std::mutex;
}

Pool &the_pool() {
  std::lock_guard<std::mutex> lock(making);
  if (!pool) {
    static const int registered = pthread_atfork(nullptr, nullptr, after_fork);
    (void)registered;
    pool = new Pool;  // never deleted: threads may still run when the process ends
  }
  return *pool;
}

}  // namespace

void parallel(int64_t parts, void (*body)(void *, int64_t), void *context) {
  const int helpers = static_cast<int>(parts < kbit_threads() ? parts : kbit_threads()) - 1;
  if (helpers > 0) {
    Pool &shared = the_pool();
    std::unique_lock<std::mutex> mine(shared.busy, std::try_to_lock);
    if (mine.owns_lock()) return shared.run({body, context, parts}, helpers);
  }
  for (int64_t part = 0; part < parts; ++part) body(context, part);
}

}  // namespace kbit

extern "C" {

void kbit_set_threads(int threads) { kbit::wanted.store(threads < 1 ? 1 : threads, std::memory_order_relaxed); }
int kbit_threads(void) {
  const int threads = kbit::wanted.load(std::memory_order_relaxed);
  if (threads > 0) return threads;
  static const unsigned cores = std::thread::hardware_concurrency();  // asks the system: 20 microseconds
  return cores ? static_cast<int>(cores) : 1;
}

}  // extern "C"
