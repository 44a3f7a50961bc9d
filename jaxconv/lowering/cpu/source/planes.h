// Operands laid out with a plane of lanes for each channel that is contracted, for groups of few channels.
#pragma once
#include <memory>
#include <vector>

#include "scratch.h"
#include "stored.h"

namespace jaxconv {
namespace {

// Lanes of a plane: those of the result, and at least one vector.
inline Index plane_width(Index groups, Index out) { return std::max<Index>(groups * out, kLanes); }

// Whether planes are worth it for groups of `in` contracted and `out` resulting channels, where each number of a plane
// is used `uses` times; and for the kernel face. Measured on groups of 1 to 12 channels and kernels of 1 to 25 taps.
inline bool narrow(Index groups, Index in, Index out, Index uses) {
  if (groups == 1 || out >= kLanes) return false;
  return in * out <= 2 + 2 * uses || (out == 1 && in <= kWide && uses >= 4);
}
inline bool narrow_pairing(Index groups, Index in, Index out, Index uses) {
  if (groups == 1 || std::min(in, out) >= kLanes) return false;
  return in * out < 2 + 2 * std::min<Index>(uses, 25);
}

// Lane o of group g in plane i is channel i of group g; lanes behind these are zero.
inline std::unique_ptr<Scratch<Stored>> spread(const Stored* from, Index positions, Index groups, Index in, Index out,
                                               const Pool& pool) {
  const Index pixel = groups * in, width = plane_width(groups, out), to_pixel = in * width, lanes = groups * out;
  auto to = std::make_unique<Scratch<Stored>>(positions * to_pixel);
  std::vector<std::int32_t> place(lanes);
  for (Index lane = 0; lane < lanes; ++lane) place[lane] = static_cast<std::int32_t>(lane / out * in);
  const Index some = std::max<Index>(1, 16384 / to_pixel);
  pool.run((positions + some - 1) / some, [&](Index task) {
    const Index last = std::min(positions, (task + 1) * some);
    Stored* at = to->get() + task * some * to_pixel;
    for (Index k = task * some; k < last; ++k) {
      const Stored* x = from + k * pixel;
      for (Index i = 0; i < in; ++i, ++x, at += width) {
        for (Index lane = 0; lane < lanes; ++lane) at[lane] = x[place[lane]];
        for (Index lane = lanes; lane < width; ++lane) at[lane] = Stored{0};
      }
    }
  });
  return to;
}

// One vector, or pairs of vectors, each in the order of its format.
template <int V>
inline void load_lanes(const Stored* p, Vec (&lanes)[V]) {
  if constexpr (V == 1) {
    lanes[0] = load(p);
  } else {
#pragma GCC unroll 2
    for (int v = 0; v < V; v += 2) load_two(p + v * kLanes, lanes[v], lanes[v + 1]);
  }
}

// Cuts lanes into pieces of `most` vectors, two, or one: visit(first lane, vectors, number before it). A last piece
// begins earlier, over lanes already visited, so that it is whole.
template <class Visit>
void lane_pieces(Index width, int most, Visit visit) {
  for (Index c = 0; c < width;) {
    int vectors = most;
    while (vectors > 1 && (width < vectors * kLanes || width - c <= vectors / 2 * kLanes)) vectors /= 2;
    visit(std::min(c, width - vectors * kLanes), vectors, c);
    c += vectors * kLanes;
  }
}

}  // namespace
}  // namespace jaxconv
