// The kernels as XLA FFI handlers, one for each face.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxconv {

template <class Real>
const Kernels<Real>& kernels_portable();
template <class Real>
const Kernels<Real>& kernels_avx2();
template <class Real>
const Kernels<Real>& kernels_avx512();

namespace {

bool supported() {
#if defined(JAXCONV_X86)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

template <class Real>
const Kernels<Real>& best_kernels() {
#if defined(JAXCONV_X86)
  return __builtin_cpu_supports("avx512f") ? kernels_avx512<Real>() : kernels_avx2<Real>();
#else
  return kernels_portable<Real>();
#endif
}

// Shared by the caller and its helpers; a helper that starts when no task is left touches nothing else.
struct Work {
  std::function<void(Index)> task;
  Index count;
  std::atomic<Index> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable ended;

  void help() {
    for (Index k; (k = next.fetch_add(1)) < count;) {
      task(k);
      if (done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(mutex);
        ended.notify_all();
      }
    }
  }
};

Pool pool_of(ffi::ThreadPool threads) {
  const Index size = std::max<Index>(1, threads.num_threads());
  // The caller works too and waits only for tasks that another thread has begun, so a busy pool cannot deadlock.
  auto run = [threads, size](Index count, const std::function<void(Index)>& task) mutable {
    if (count <= 1 || size == 1) {
      for (Index k = 0; k < count; ++k) task(k);
      return;
    }
    auto work = std::make_shared<Work>();
    work->task = task;
    work->count = count;
    for (Index k = 1; k < std::min(size, count); ++k) threads.Schedule([work] { work->help(); });
    work->help();
    std::unique_lock<std::mutex> lock(work->mutex);
    work->ended.wait(lock, [&] { return work->done.load() == work->count; });
  };
  return {size, run};
}

using Sizes = ffi::Span<const std::int64_t>;

Problem problem_of(Sizes sizes) {
  Problem p;
  const std::int64_t* at = sizes.begin();
  for (auto* part : {&p.input, &p.kernel, &p.output, &p.stride, &p.dilation, &p.low}) {
    std::copy(at, at + 3, part->begin());
    at += 3;
  }
  p.groups = at[0];
  p.in = at[1];
  p.out = at[2];
  p.batch = at[3];
  return p;
}

enum class Face { apply, adjoint, kernel };

template <class Real, ffi::DataType type, Face face>
ffi::Error run(ffi::ThreadPool threads, ffi::Buffer<type> a, ffi::Buffer<type> b, ffi::ResultBuffer<type> result,
               Sizes sizes) {
  if (sizes.size() != 22) return ffi::Error::InvalidArgument("sizes must have 22 entries");
  const Problem p = problem_of(sizes);
  const Kernels<Real>& kernels = best_kernels<Real>();
  const auto call = face == Face::apply ? kernels.apply : face == Face::adjoint ? kernels.adjoint : kernels.kernel;
  try {
    call(p, a.typed_data(), b.typed_data(), result->typed_data(), pool_of(threads));
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string("jaxconv: ") + error.what());
  }
  return ffi::Error::Success();
}

template <ffi::DataType type>
auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<type>>()
      .template Arg<ffi::Buffer<type>>()
      .template Ret<ffi::Buffer<type>>()
      .template Attr<Sizes>("sizes");
}

}  // namespace
}  // namespace jaxconv

#define JAXCONV_HANDLER(face, suffix, Real, type)                                                               \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxconv_##face##_##suffix, (jaxconv::run<Real, ffi::type, jaxconv::Face::face>), \
                                jaxconv::binding<ffi::type>())

extern "C" {
// Whether this processor runs the kernels that were compiled.
int jaxconv_supported() { return jaxconv::supported(); }

// The interface this library was compiled against, as 1000 * major + minor.
int jaxconv_interface() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

JAXCONV_HANDLER(apply, float32, float, F32);
JAXCONV_HANDLER(adjoint, float32, float, F32);
JAXCONV_HANDLER(kernel, float32, float, F32);
JAXCONV_HANDLER(apply, float64, double, F64);
JAXCONV_HANDLER(adjoint, float64, double, F64);
JAXCONV_HANDLER(kernel, float64, double, F64);
}
