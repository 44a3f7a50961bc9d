// apply and adjoint where every resulting channel contracts few channels of its own: lanes are resulting channels, and
// the operand has a plane of lanes for each contracted one.
//
// Along the last axis the taps that a position meets change only where a tap enters or leaves the operand. Between such
// places all taps of a tile of positions are added up in registers, at addresses that only strides give, and the tile is
// written once. The last tile is as wide as the others: it begins earlier and writes some positions again.
#pragma once
#include <algorithm>
#include <vector>

#include "gather.h"
#include "planes.h"
#include "shared.h"

namespace jaxconv {
namespace {

struct Planes {
  const Stored* data;  // operand positions x planes x width, or pixels as they are where groups share vectors
  const Stored* w;     // taps x planes x width
  Index planes, width;
  Index valid;  // lanes that are channels of the result; the others are padding
  Index pixel;  // numbers from one operand position to the next
  Index out, share;  // resulting channels of a group, and groups that share a vector, or 0
  const After* after;
};

// Positions first <= j < end of the last axis, which all meet the same taps. The taps are consecutive, so operand
// positions and weights are evenly spaced; distances are in numbers.
struct Stretch {
  Index first, end;
  Index taps, offset, next_offset, weight, next_weight;
};

inline std::vector<Stretch> stretches(const Axis& axis, Index size, Index pixel, Index matrix) {
  const Index taps = axis.tap.size();
  const std::vector<Index> cuts = cuts_of(axis, size);
  std::vector<Stretch> all;
  for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
    Stretch one{cuts[k], cuts[k + 1], 0, 0, 0, 0, 0};
    for (Index t = 0; t < taps; ++t) {
      const Found met = found(axis, axis.offset[t], size);
      if (met.low > one.first || met.high < one.end) continue;
      if (one.taps++ == 0) {
        one.offset = axis.offset[t] * pixel;
        one.weight = axis.tap[t] * matrix;
      }
    }
    if (taps > 1) {
      one.next_offset = (axis.offset[1] - axis.offset[0]) * pixel;
      one.next_weight = (axis.tap[1] - axis.tap[0]) * matrix;
    }
    all.push_back(one);
  }
  return all;
}

struct Line {  // of the operand, and the weights of the taps that meet it
  const Stored *data, *w;
};

// The numbers that the result's next line reads and this one does not. They are prefetched now, because main memory is
// slow, and a few at a time, so that other reads are not held up.
struct Next {
  const Stored* data;
  Index size;

  // Inlined: GCC would drop the call of a function that only prefetches.
  [[gnu::always_inline]] void ask(Index part, Index parts) const {
    const Index share = up((size + parts - 1) / parts, kCacheLine), end = std::min(size, (part + 1) * share);
    for (Index k = part * share; k < end; k += kCacheLine) __builtin_prefetch(data + k);
  }
};

// What a tile of positions is given; `at` is the first one's place in a line, steps lead to the next ones.
struct Lone {
  const std::vector<Line>& lines;
  const Stretch& taps;
  const Planes& g;
  Index at, step;
  Stored* to;
  Index to_step;
  Next next;
};

// The results of a tile that something follows.
template <int P, int V>
[[gnu::always_inline]] inline void write_following(const Lone& a, const Vec (&sum)[P][V], Stored* to, Index channel,
                                                   Index channels) {
  Real sums[P][V * kLanes];
  Stored* rows[P];
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p, to += a.to_step) {
    rows[p] = to;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums[p] + v * kLanes, sum[p][v]);
  }
  if constexpr (kRounded && V > 1) {  // pairs of vectors are in the order of their format
    Real pair[kWide];
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < V; v += 2) {
        in_order(pair, sums[p] + v * kLanes);
        std::memcpy(sums[p] + v * kLanes, pair, sizeof(pair));
      }
  }
  a.g.after->write(sums[0], V, rows, P, channel, channels);
}

// sum[p] += w[tap][plane] * pixel[p][plane], lane by lane, over all taps.
template <int P, int V, bool one, bool then>
void lone_tile(const Lone& a, Index lane) {
  Vec sum[P][V];
  clear(sum);
  const Index planes = one ? 1 : a.g.planes, width = a.g.width, step = a.step;
  const Index next = a.taps.next_offset, next_w = a.taps.next_weight;
  for (const Line& line : a.lines) {
    const Stored* from = line.data + a.at + a.taps.offset + lane;
    const Stored* w = line.w + a.taps.weight + lane;
    for (Index t = 0; t < a.taps.taps; ++t, from += next, w += next_w) {
      for (Index i = 0; i < planes; ++i) {
        Vec weight[V];
        load_lanes<V>(w + i * width, weight);
#pragma GCC unroll 32
        for (int p = 0; p < P; ++p) {
          Vec value[V];
          load_lanes<V>(from + i * width + p * step, value);
#pragma GCC unroll 32
          for (int v = 0; v < V; ++v) sum[p][v] += weight[v] * value[v];
        }
      }
    }
  }
  Stored* to = a.to + lane;
  if constexpr (then) return write_following(a, sum, to, lane, std::min<Index>(V * kLanes, a.g.valid));
  if (a.g.valid < kLanes) {
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p, to += a.to_step) store_part(to, sum[p][0], static_cast<int>(a.g.valid));
    return;
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p, to += a.to_step) {
    if constexpr (V == 1) {
      store(to, sum[p][0]);
    } else {
#pragma GCC unroll 2
      for (int v = 0; v < V; v += 2) store_two(to + v * kLanes, sum[p][v], sum[p][v + 1]);
    }
  }
}

template <int P, bool one, bool then>
void lone_tiles(const Lone& a) {
  constexpr Index piece = kLoneVectors * kLanes;
  const Index parts = std::max<Index>(1, a.g.width / piece);
  lane_pieces(a.g.width, kLoneVectors, [&](Index lane, int vectors, Index c) {
    a.next.ask(c / piece, parts);
    (vectors == kLoneVectors ? lone_tile<P, kLoneVectors, one, then>
     : vectors == 2          ? lone_tile<P, 2, one, then>
                             : lone_tile<P, 1, one, then>)(a, lane);
  });
}

#if defined(JAXCONV_PERMUTES)
// The same where groups share vectors.
template <int P, bool two, bool then>
void shared_tiles(const Lone& a) {
  const Index in = a.g.planes, out = a.g.out, share = a.g.share;
  const Shared s(share, in, out, a.g.width);
  for (Index c = 0; c < a.g.valid; c += share * out) {
    const Index lane = std::min(c, a.g.valid - share * out);  // the last ones begin earlier, so that they are whole
    Vec all[P][1];
    auto& sum = reinterpret_cast<Vec(&)[P]>(all);
    clear(all);
    for (const Line& line : a.lines) {
      shared_line<P, two>(sum, s, line.data + a.at + a.taps.offset + lane / out * in, a.step,
                          line.w + a.taps.weight + lane, a.taps.taps, a.taps.next_offset, a.taps.next_weight);
    }
    Stored* to = a.to + lane;
    if constexpr (then) {
      write_following(a, all, to, lane, s.lanes);
      continue;
    }
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p, to += a.to_step) store_part(to, sum[p], s.lanes);
  }
}
#endif

// The tile of some positions.
template <int P, bool then>
auto tiles_as(const Planes& g) {
#if defined(JAXCONV_PERMUTES)
  if (g.share > 0)
    return kFromTwo && g.share * g.planes > kLanes ? shared_tiles<P, kFromTwo, then> : shared_tiles<P, false, then>;
#endif
  return g.planes == 1 ? lone_tiles<P, true, then> : lone_tiles<P, false, then>;
}
template <int P>
auto tiles_of(const Planes& g) {
  return g.after ? tiles_as<P, true>(g) : tiles_as<P, false>(g);
}

constexpr Index kPiece = 256;     // positions of a task's unit
constexpr Index kNumbers = 4096;  // of a unit where classes take turns, so that it stays in the first-level cache

inline void gather_planes(const Gather& g, const std::vector<Class>& classes, const Planes& planes,
                          const std::array<Index, 3>& kernel, const Pool& pool) {
  const Index pixel = planes.pixel, matrix = planes.planes * planes.width;
  struct Residue {  // of the last axis
    const Axis* axis;
    std::vector<Stretch> stretches;
  };
  // Classes that differ along the last axis only fill the same lines between them.
  struct Part {
    const Axis *a0, *a1;
    std::vector<Residue> residues;
    Index piece, pieces, units;  // positions of a piece, pieces of a line, units of all lines
  };
  std::vector<Part> parts;
  Index units = 0;
  const Index most = planes.share ? kRows : kLoneRows;  // positions of a tile
  for (std::size_t k = 0; k < classes.size();) {
    const Axis &a0 = classes[k].axis[0], &a1 = classes[k].axis[1];
    Part part{&a0, &a1, {}, kPiece, 0, 0};
    Index longest = 0;
    for (; k < classes.size() && classes[k].axis[0].first == a0.first && classes[k].axis[1].first == a1.first; ++k) {
      const Axis& a2 = classes[k].axis[2];
      part.residues.push_back({&a2, stretches(a2, g.data_size[2], pixel, matrix)});
      longest = std::max(longest, a2.count);
    }
    if (part.residues.size() > 1) part.piece = up(std::max<Index>(1, kNumbers / planes.width), most);
    part.pieces = (longest + part.piece - 1) / part.piece;
    part.units = g.batch * a0.count * a1.count * part.pieces;
    units += part.units;
    parts.push_back(std::move(part));
  }
  const auto many = planes.share ? tiles_of<kRows>(planes) : tiles_of<kLoneRows>(planes);
  const auto half = planes.share ? tiles_of<kRows / 2>(planes) : tiles_of<kLoneRows / 2>(planes);
  const auto single = tiles_of<1>(planes);
  // A piece of a line of the result, of all of the part's classes.
  auto fill = [&](const Part& part, Index unit) {
    thread_local std::vector<Line> lines;
    const Axis &a0 = *part.a0, &a1 = *part.a1;
    const Index line = unit / part.pieces, j1 = line % a1.count, j0 = line / a1.count % a0.count;
    const Index n = line / a1.count / a0.count, begin = unit % part.pieces * part.piece;
    const Index pitch = g.data_size[2] * pixel;
    lines.clear();
    for (std::size_t t0 = 0; t0 < a0.tap.size(); ++t0) {
      const Index u0 = a0.step * j0 + a0.offset[t0];
      if (u0 < 0 || u0 >= g.data_size[0]) continue;
      for (std::size_t t1 = 0; t1 < a1.tap.size(); ++t1) {
        const Index u1 = a1.step * j1 + a1.offset[t1];
        if (u1 < 0 || u1 >= g.data_size[1]) continue;
        lines.push_back({planes.data + ((n * g.data_size[0] + u0) * g.data_size[1] + u1) * pitch,
                         planes.w + (a0.tap[t0] * kernel[1] + a1.tap[t1]) * kernel[2] * matrix});
      }
    }
    const Stored* behind = nullptr;  // the lines being read
    for (const Line& one : lines) behind = std::max(behind, one.data + pitch);
    const Index row = ((n * g.result_size[0] + a0.first + a0.stride * j0) * g.result_size[1] + a1.first +
                       a1.stride * j1) * g.result_size[2];
    // Whether to ask for the next line, while the first class is filled. Not with a step: too much lies between.
    bool ahead = behind && a1.step == 1 && a1.count > 1;
    for (const Residue& residue : part.residues) {
      const Axis& a2 = *residue.axis;
      const Index stop = std::min(a2.count, begin + part.piece);
      const Index step = a2.step * pixel, to_step = a2.stride * planes.valid;
      for (const Stretch& taps : residue.stretches) {
        const Index first = std::max(begin, taps.first), last = std::min(stop, taps.end), count = last - first;
        const Index rows = count >= most ? most : count >= most / 2 ? most / 2 : 1;
        const auto run = rows == most ? many : rows == 1 ? single : half;
        for (Index j = first; j < last; j += rows) {
          const Index at = std::min(j, last - rows);
          Stored* to = g.result + (row + a2.first + a2.stride * at) * planes.valid;
          const Next next{behind + at * step, ahead ? std::min(rows * step, pitch) : 0};
          run({lines, taps, planes, at * step, step, to, to_step, next});
        }
      }
      ahead = false;
    }
  };
  const Index tasks = std::min(units, 16 * pool.threads);
  pool.run(tasks, [&](Index task) {
    const Index end = (task + 1) * units / tasks;
    Index before = 0;  // units of earlier classes
    for (const Part& part : parts) {
      const Index from = std::max<Index>(0, task * units / tasks - before), to = std::min(part.units, end - before);
      for (Index unit = from; unit < to; ++unit) fill(part, unit);
      before += part.units;
    }
  });
}

}  // namespace
}  // namespace jaxconv
