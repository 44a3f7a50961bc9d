// Tasks shared by a caller and the threads of a pool that may be busy, gone (after a fork) or refuse.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#if defined(__linux__)
#include <sched.h>
#endif

#include "problem.h"

namespace jaxconv {

constexpr std::chrono::microseconds kSpin{50};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The core that this thread runs on, and a move from it to any other. Linux may wake a helper on its caller's core, beside an
// idle one, and leave both there for milliseconds, which is longer than most calls take.
#if defined(__linux__)
inline int this_core() { return sched_getcpu(); }
inline void leave(int core) {
  cpu_set_t allowed;
  if (core < 0 || core != this_core() || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof(others), &others);
  sched_setaffinity(0, sizeof(allowed), &allowed);
}
#else
inline int this_core() { return -1; }
inline void leave(int) {}
#endif

// Shared by the caller and its helpers; a helper that starts when no task is left touches nothing else.
struct Work {
  const std::function<void(Index)>* task;  // the caller's: it waits until no task is left or under way
  Index count;
  std::atomic<Index> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable ended;
  std::exception_ptr error;  // the first

  void help() {
    for (Index k; (k = next.fetch_add(1)) < count;) {
      try {
        (*task)(k);
      } catch (...) {  // it must not leave a thread of the pool: that would end the process
        std::lock_guard<std::mutex> lock(mutex);
        if (!error) error = std::current_exception();
      }
      if (done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(mutex);
        ended.notify_all();
      }
    }
  }
};

// Runs the tasks on this thread and on up to `helpers` others that `schedule(function)` may find. An exception of a task
// is thrown here, when all have ended.
template <class Schedule>
void share(Index helpers, Index count, const std::function<void(Index)>& task, const Schedule& schedule) {
  auto work = std::make_shared<Work>();
  work->task = &task;
  work->count = count;
  try {
    const int core = this_core();
    for (Index k = 0; k < std::min(helpers, count - 1); ++k)
      schedule([work, core] {
        if (work->next.load() < work->count) leave(core);
        work->help();
      });
  } catch (...) {  // fewer helpers: this thread does what they would have done
  }
  work->help();
  // Only tasks that another thread has begun are waited for, so a busy pool cannot deadlock. Tasks are short: asleep, this
  // thread would often be woken later than they end.
  const auto began = std::chrono::steady_clock::now();
  while (work->done.load() != count && std::chrono::steady_clock::now() - began < kSpin) pause();
  std::unique_lock<std::mutex> lock(work->mutex);
  work->ended.wait(lock, [&] { return work->done.load() == work->count; });
  if (work->error) std::rethrow_exception(work->error);
}

}  // namespace jaxconv
