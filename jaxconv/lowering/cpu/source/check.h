// What a caller says about the operands, held against the buffers that came: a program may have been made by another
// version, or by hand, and the kernels read wherever the geometry points.
#pragma once
#include <algorithm>

#include "problem.h"

namespace jaxconv {

struct Shape {
  const Index* size = nullptr;
  Index rank = 0;
};

enum class Face { apply, adjoint, kernel };

constexpr int kSizes = 23;

// The geometry in the order of `sizes`: input, kernel, output, stride, dilation, low on three axes each; groups,
// channels of a group in and out, batch; whether results are plain sums.
inline Problem problem_of(const Index* at) {
  Problem p;
  for (auto* part : {&p.input, &p.kernel, &p.output, &p.stride, &p.dilation, &p.low}) {
    std::copy(at, at + 3, part->begin());
    at += 3;
  }
  p.groups = at[0];
  p.in = at[1];
  p.out = at[2];
  p.batch = at[3];
  p.plain = at[4] != 0;
  return p;
}

// Whether a buffer is `first` x the last axes of `space` x `last` (and `more`, where that is not 0); its other axes are 1.
inline bool fits(const Shape& shape, Index first, const std::array<Index, 3>& space, Index last, Index more = 0) {
  const Index axes = shape.rank - (first > 0) - 1 - (more > 0);
  if (axes < 1 || axes > 3) return false;
  const Index* at = shape.size;
  if (first > 0 && *at++ != first) return false;
  for (int a = 0; a < 3; ++a)
    if (a < 3 - axes ? space[a] != 1 : *at++ != space[a]) return false;
  return *at++ == last && (more == 0 || *at == more);
}

// Why the kernels may not run, or nullptr.
inline const char* fault(const Problem& p, Face face, const Shape& a, const Shape& b, const Shape& result) {
  constexpr Index kMost = Index{1} << 40;  // of every number: nothing below can overflow
  double volume[3] = {1, 1, 1}, reach = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const Index sizes[] = {p.input[axis], p.kernel[axis], p.output[axis], p.stride[axis], p.dilation[axis]};
    for (Index size : sizes)
      if (size < 1 || size > kMost) return "a size, stride or dilation is not within 1..2^40";
    if (p.low[axis] < -kMost || p.low[axis] > kMost) return "a pad is not within -2^40..2^40";
    for (int k = 0; k < 3; ++k) volume[k] *= static_cast<double>(sizes[k]);
    reach = std::max(reach, static_cast<double>(p.stride[axis]) * p.output[axis] +
                                static_cast<double>(p.dilation[axis]) * p.kernel[axis]);
  }
  for (Index size : {p.groups, p.in, p.out, p.batch})
    if (size < 1 || size > kMost) return "groups, channels or batch are not within 1..2^40";
  const double channels = static_cast<double>(p.groups) * std::max(p.in, p.out);
  if (reach > 0x1p60 || std::max({volume[0], volume[2]}) * p.batch * channels > 0x1p60 ||
      volume[1] * p.in * p.groups * static_cast<double>(p.out) > 0x1p60)
    return "the geometry is too large";
  const Index in = p.groups * p.in, out = p.groups * p.out;
  auto input = [&](const Shape& s) { return fits(s, p.batch, p.input, in); };
  auto output = [&](const Shape& s) { return fits(s, p.batch, p.output, out); };
  auto kernel = [&](const Shape& s) { return fits(s, 0, p.kernel, p.in, out); };
  const bool right = face == Face::apply     ? input(a) && kernel(b) && output(result)
                     : face == Face::adjoint ? output(a) && kernel(b) && input(result)
                                             : input(a) && output(b) && kernel(result);
  return right ? nullptr : "the sizes are not those of the buffers";
}

}  // namespace jaxconv
