// One face of a convolution as the kernels see it: channels last, up to three spatial axes.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>

namespace jaxconv {

using Index = std::int64_t;

// Formats that are widened to float where they are read.
struct Bfloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// Geometry of the forward convolution; s*q + d*t - lo = u on each axis. Unused axes have size 1.
struct Problem {
  Index batch = 0;
  std::array<Index, 3> input{}, kernel{}, output{}, stride{}, dilation{}, low{};
  Index groups = 1;
  Index in = 0, out = 0;  // channels of a group
  bool plain = false;     // whether every result is to be the sum of its own products, whatever would be faster
  Index taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// Runs task(0), ..., task(count - 1), in any order and on any threads, and returns when all have ended.
using ParallelFor = std::function<void(Index count, const std::function<void(Index)>& task)>;

struct Pool {
  Index threads = 1;
  ParallelFor run;
};

// What results become before they are left, of channel c: activation(scale[c] * v + bias[c] + residual). Below zero the
// activation is zero where `rectify`, or slope[c] times the number; it is never above `most`.
template <class Stored>
struct Epilogue {
  using Real = std::conditional_t<std::is_same_v<Stored, double>, double, float>;
  const Real *scale = nullptr, *bias = nullptr, *slope = nullptr;  // those that there are
  const Stored* residual = nullptr;                                // of the result's shape
  bool rectify = false;
  Real most = std::numeric_limits<Real>::infinity();
};

// The kernels compiled for one instruction set and number format.
template <class Stored>
struct Kernels {
  // The epilogue may be nullptr.
  void (*apply)(const Problem&, const Stored* x, const Stored* w, Stored* y, const Pool&, const Epilogue<Stored>*);
  void (*adjoint)(const Problem&, const Stored* y, const Stored* w, Stored* x, const Pool&, const Epilogue<Stored>*);
  void (*kernel)(const Problem&, const Stored* x, const Stored* y, Stored* w, const Pool&);
};

}  // namespace jaxconv
