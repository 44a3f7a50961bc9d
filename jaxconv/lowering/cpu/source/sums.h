// What both forms of the kernel face share.
#pragma once
#include <algorithm>

#include "scratch.h"
#include "stored.h"

namespace jaxconv {
namespace {

// Positions of an axis that tap t meets: low <= q < high, where x is read at stride*q + shift.
struct Reach {
  Index shift, low, high;
};
inline Reach reach(const Problem& p, int axis, Index t) {
  const Index shift = p.dilation[axis] * t - p.low[axis], s = p.stride[axis], last = p.input[axis] - 1 - shift;
  const Index low = shift >= 0 ? 0 : (-shift + s - 1) / s;
  return {shift, low, last < 0 ? 0 : std::min(p.output[axis], last / s + 1)};
}

// Into how many splits, of at least `least` positions each, the sums of `items` pieces of work are divided: many positions
// give many threads something to do. It is not by the number of threads, on which the order of additions, and so the
// result, would depend.
inline Index splits_of(Index positions, Index least, Index items) {
  const Index wanted = std::clamp<Index>(positions / 2048, 8, 64);
  return std::clamp<Index>((wanted + items - 1) / items, 1, std::max<Index>(1, positions / least));
}

// Adds up the splits' results and frees the others.
inline void add_splits(Real* sums, Index size, Index splits, const Pool& pool) {
  if (splits == 1) return;
  const Index some = 4096;
  pool.run((size + some - 1) / some, [&](Index task) {
    for (Index s = 1; s < splits; ++s)
      for (Index k = task * some; k < std::min(size, (task + 1) * some); ++k) sums[k] += sums[s * size + k];
  });
}

}  // namespace
}  // namespace jaxconv
