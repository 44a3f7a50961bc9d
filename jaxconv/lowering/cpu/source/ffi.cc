// The kernels as XLA FFI handlers, one for each face.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "check.h"
#include "processor.h"
#include "work.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxconv {

template <class Stored>
const Kernels<Stored>& kernels_portable();
template <class Stored>
const Kernels<Stored>& kernels_neon();
template <class Stored>
const Kernels<Stored>& kernels_avx2();
template <class Stored>
const Kernels<Stored>& kernels_avx512();
template <class Stored>
const Kernels<Stored>& kernels_avx512bf16();
bool has_matrix_kernels();

namespace {

bool supported() {
#if defined(__x86_64__)
  return processor().avx2;
#else
  return true;
#endif
}

const char* instructions() {
#if defined(__x86_64__)
#if defined(JAXCONV_HAS_avx512bf16)
  if (processor().pairs && has_matrix_kernels()) return "AVX-512, AVX512-BF16, AMX-BF16";
  if (processor().pairs) return "AVX-512, AVX512-BF16";
#endif
  return processor().avx512 ? "AVX-512" : "AVX2";
#elif defined(__aarch64__)
  return "NEON";
#else
  return "the compiler's vectors";
#endif
}

template <class Stored>
const Kernels<Stored>& best_kernels() {
#if defined(__x86_64__)
#if defined(JAXCONV_HAS_avx512bf16)
  if constexpr (std::is_same_v<Stored, Bfloat16>)
    if (processor().pairs) return kernels_avx512bf16<Stored>();
#endif
  if constexpr (sizeof(Stored) > 2)  // AVX2's serve the rest of half precision
    if (processor().avx512) return kernels_avx512<Stored>();
  return kernels_avx2<Stored>();
#elif defined(__aarch64__)
  return kernels_neon<Stored>();
#else
  return kernels_portable<Stored>();
#endif
}

Pool pool_of(ffi::ThreadPool threads) {
  const Index size = std::max<Index>(1, threads.num_threads());
  auto run = [threads, size](Index count, const std::function<void(Index)>& task) mutable {
    if (count <= 1 || size == 1) {
      for (Index k = 0; k < count; ++k) task(k);
      return;
    }
    share(size - 1, count, task, [&](auto help) { threads.Schedule(std::move(help)); });
  };
  return {size, run};
}

using Sizes = ffi::Span<const std::int64_t>;

template <class Buffer>
Shape shape_of(const Buffer& buffer) {
  const auto dimensions = buffer.dimensions();
  return {dimensions.begin(), static_cast<Index>(dimensions.size())};
}

template <class Stored, ffi::DataType type, Face face>
ffi::Error run_with(ffi::ThreadPool threads, ffi::Buffer<type> a, ffi::Buffer<type> b, ffi::ResultBuffer<type> result,
                    Sizes sizes, const Epilogue<Stored>* epilogue) {
  if (sizes.size() != kSizes) return ffi::Error::InvalidArgument("jaxconv: sizes must have 23 entries");
  const Problem p = problem_of(sizes.begin());
  if (const char* why = fault(p, face, shape_of(a), shape_of(b), shape_of(*result)))
    return ffi::Error::InvalidArgument(std::string("jaxconv: ") + why);
  const Kernels<Stored>& kernels = best_kernels<Stored>();
  try {
    const auto* first = static_cast<const Stored*>(a.untyped_data());
    const auto* second = static_cast<const Stored*>(b.untyped_data());
    auto* out = static_cast<Stored*>(result->untyped_data());
    if constexpr (face == Face::kernel) {
      kernels.kernel(p, first, second, out, pool_of(threads));
    } else {
      (face == Face::apply ? kernels.apply : kernels.adjoint)(p, first, second, out, pool_of(threads), epilogue);
    }
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string("jaxconv: ") + error.what());
  }
  return ffi::Error::Success();
}

template <class Stored, ffi::DataType type, Face face>
ffi::Error run(ffi::ThreadPool threads, ffi::Buffer<type> a, ffi::Buffer<type> b, ffi::ResultBuffer<type> result,
               Sizes sizes) {
  return run_with<Stored, type, face>(threads, a, b, result, sizes, nullptr);
}

// With an epilogue, of which what there is none of is empty.
template <class Stored, ffi::DataType type, ffi::DataType real, Face face>
ffi::Error run_then(ffi::ThreadPool threads, ffi::Buffer<type> a, ffi::Buffer<type> b, ffi::Buffer<real> scale,
                    ffi::Buffer<real> bias, ffi::Buffer<real> slope, ffi::Buffer<type> residual,
                    ffi::ResultBuffer<type> result, Sizes sizes, Index rectify, double most) {
  const auto dimensions = result->dimensions();
  const std::size_t channels = dimensions.size() > 0 ? dimensions.back() : 0, all = result->element_count();
  const auto fits = [](const auto& buffer, std::size_t size) {
    return buffer.element_count() == 0 || buffer.element_count() == size;
  };
  if (!fits(scale, channels) || !fits(bias, channels) || !fits(slope, channels) || !fits(residual, all))
    return ffi::Error::InvalidArgument("jaxconv: an epilogue is not of the result's size");
  using Real = typename Epilogue<Stored>::Real;
  Epilogue<Stored> e;
  const auto numbers = [](const auto& buffer) { return buffer.element_count() ? buffer.untyped_data() : nullptr; };
  e.scale = static_cast<const Real*>(numbers(scale));
  e.bias = static_cast<const Real*>(numbers(bias));
  e.slope = static_cast<const Real*>(numbers(slope));
  e.residual = static_cast<const Stored*>(numbers(residual));
  e.rectify = rectify != 0;
  e.most = static_cast<Real>(most);
  return run_with<Stored, type, face>(threads, a, b, result, sizes, &e);
}

template <ffi::DataType type, ffi::DataType real>
auto binding_then() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<type>>()
      .template Arg<ffi::Buffer<type>>()
      .template Arg<ffi::Buffer<real>>()
      .template Arg<ffi::Buffer<real>>()
      .template Arg<ffi::Buffer<real>>()
      .template Arg<ffi::Buffer<type>>()
      .template Ret<ffi::Buffer<type>>()
      .template Attr<Sizes>("sizes")
      .template Attr<Index>("rectify")
      .template Attr<double>("most");
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

#define JAXCONV_HANDLER(face, suffix, Stored, type)                                               \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxconv_##face##_##suffix,                                        \
                                (jaxconv::run<Stored, ffi::type, jaxconv::Face::face>), \
                                jaxconv::binding<ffi::type>())
#define JAXCONV_HANDLER_THEN(face, suffix, Stored, type, real)                                                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxconv_##face##_then_##suffix,                                               \
                                (jaxconv::run_then<Stored, ffi::type, ffi::real, jaxconv::Face::face>), \
                                (jaxconv::binding_then<ffi::type, ffi::real>()))
#define JAXCONV_HANDLERS(suffix, Stored, type, real)         \
  JAXCONV_HANDLER(apply, suffix, Stored, type);              \
  JAXCONV_HANDLER(adjoint, suffix, Stored, type);            \
  JAXCONV_HANDLER(kernel, suffix, Stored, type);             \
  JAXCONV_HANDLER_THEN(apply, suffix, Stored, type, real);   \
  JAXCONV_HANDLER_THEN(adjoint, suffix, Stored, type, real)

extern "C" {
// Whether this processor runs the kernels that were compiled.
int jaxconv_supported() { return jaxconv::supported(); }

// The instruction set of the kernels that run here.
const char* jaxconv_instructions() { return jaxconv::instructions(); }

// The interface this library was compiled against, as 1000 * major + minor.
int jaxconv_interface() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

JAXCONV_HANDLERS(float32, float, F32, F32);
JAXCONV_HANDLERS(float64, double, F64, F64);
JAXCONV_HANDLERS(bfloat16, jaxconv::Bfloat16, BF16, F32);
JAXCONV_HANDLERS(float16, jaxconv::Float16, F16, F32);
}
