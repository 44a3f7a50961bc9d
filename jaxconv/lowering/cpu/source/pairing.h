// The kernel face: w[t] is the product of x's pixels, shifted to tap t, with y's pixels, summed over all positions.
//
// One side's channels lie along the lanes, the other side's are broadcast. Positions are taken a few at a time and both
// sides are packed for them, so that the products run over consecutive memory whatever the channels' stride. Where x has
// few channels the taps of the last axis are taken together: x then gives a run of span * in numbers for each position.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "pairs.h"
#include "sums.h"

namespace jaxconv {
namespace {

constexpr Index kPackedRows = 96;                                    // packed at a time
constexpr Index kPositions = kPairs ? 2 * kPackedRows : kPackedRows;  // in pairs, or one by one
constexpr Index kSlab = 240;      // broadcast channels of a task, at most

// sum[r][lane] += rows[r] * lanes[lane] over `count` packed positions, or pairs of them.
template <int R, int V>
void outer(const Packed* rows, Index row_step, const Packed* lanes, Index count, Real* to, Index to_step) {
  Vec sum[R][V];
  clear(sum);
  for (Index k = 0; k < count; ++k, rows += row_step, lanes += V * kLanes) {
    PackedVec value[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) value[v] = load_packed(lanes + v * kLanes);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) add_product(sum[r][v], value[v], rows[r]);
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Real* at = to + r * to_step + v * kLanes;
      store(at, load(at) + sum[r][v]);
    }
  }
}

using Outer = void (*)(const Packed*, Index, const Packed*, Index, Real*, Index);
template <int V, int... R>
constexpr std::array<Outer, sizeof...(R)> outers(std::integer_sequence<int, R...>) {
  return {outer<R + 1, V>...};
}
constexpr auto kOuter4 = outers<4>(std::make_integer_sequence<int, kRows / 2>{});
constexpr auto kOuter2 = outers<2>(std::make_integer_sequence<int, kRows>{});
constexpr auto kOuter1 = outers<1>(std::make_integer_sequence<int, 2 * kRows>{});

// Where positions are packed to: rows of numbers, one for each position, or for each pair of them.
template <class To>
struct Panel {
  To* at;
  Index step, position;  // the first position that is packed

  // Writes `count` channels of position k, and zeros behind them up to `width`.
  void put(Index k, Index first, const Stored* from, Index count, Index width) const {
    k += position;
    if constexpr (std::is_same_v<To, Packed>) {
      pack_run(at + (kPairs ? k / 2 : k) * step + first, from, count, width, k);
    } else {
      To* to = at + k * step + first;
      for (Index c = 0; c < count; ++c) to[c] = from[c];
      for (Index c = count; c < width; ++c) to[c] = To{0};
    }
  }
};

// Cuts lanes into blocks of vectors that share an accumulator tile: visit(first lane, vectors).
template <class Visit>
void lane_blocks(Index wide, bool few_rows, Visit visit) {
  for (Index lane = 0; lane < wide;) {
    const Index left = wide - lane;
    const int vectors = few_rows && left >= 4 * kLanes ? 4 : left >= 2 * kLanes ? 2 : 1;
    visit(lane, vectors);
    lane += vectors * kLanes;
  }
}

// One side of the product: consecutive channels of the pixels of consecutive positions.
struct Side {
  const Stored* data;  // pixel of the first position
  Index step;           // from one position to the next
  // x with taps together: numbers before `begin` and from `end` on (counted from `data`) do not exist.
  Index begin, end;
  bool cut;
};

// Packs channels [first, first + count) of `positions` positions, with zeros up to `width`.
template <class To>
inline void pack_side(const Side& side, Index positions, Index first, Index count, Index width, const Panel<To>& to) {
  const Stored* from = side.data + first;
  if (!side.cut && count == kWide && width == kWide) {
    for (Index k = 0; k < positions; ++k, from += side.step) to.put(k, 0, from, kWide, kWide);
    return;
  }
  for (Index k = 0; k < positions; ++k) {
    const Index at = k * side.step + first;
    const Index before = side.cut ? std::clamp<Index>(side.begin - at, 0, count) : 0;
    const Index real = side.cut ? std::clamp<Index>(side.end - at, before, count) : count;
    if (before > 0) to.put(k, 0, nullptr, 0, before);
    to.put(k, before, side.data + at + before, real - before, width - before);
  }
}

inline void dense_pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  const Index x_pixel = p.groups * p.in, y_pixel = p.groups * p.out;
  const bool together = p.kernel[2] > 1 && (p.in <= 32 || p.in * p.kernel[2] <= kSlab);
  const bool staged = together && (p.groups > 1 || p.dilation[2] > 1);  // the taps' pixels are not one run of memory
  const Index span = together ? p.kernel[2] : 1, wide_in = span * p.in;
  const Index last_taps = p.kernel[2] / span, taps = p.kernel[0] * p.kernel[1] * last_taps;
  const bool swap = up(wide_in, kLanes) * p.out < up(p.out, kLanes) * wide_in;  // lanes along x
  const Index lanes = swap ? wide_in : p.out, rows = swap ? p.out : wide_in, wide = up(lanes, kLanes);

  const Index slabs = (rows + kSlab - 1) / kSlab, items = p.groups * taps * slabs;
  const Index slab_rows = (rows + slabs - 1) / slabs;
  const Index lines = p.batch * p.output[0] * p.output[1];
  const Index positions = lines * p.output[2], most_splits = std::max<Index>(1, positions / (4 * kPositions));
  const Index splits = std::clamp<Index>((8 * pool.threads + items - 1) / items, 1, pool.threads == 1 ? 1 : most_splits);
  const Index size = p.groups * taps * rows * wide;
  // A single split without padded lanes adds up in the result itself.
  const bool in_place = std::is_same_v<Stored, Real> && splits == 1 && !swap && p.groups == 1 && wide == lanes;
  const Scratch<Real> scratch(in_place ? 0 : size * splits);
  Real* const sums = in_place ? reinterpret_cast<Real*>(w) : scratch.get();

  pool.run(items * splits, [&](Index task) {
    const Index split = task / items, item = task % items;
    const Index first_row = item % slabs * slab_rows, tap = item / slabs % taps, group = item / slabs / taps;
    const Index slab = std::min(slab_rows, rows - first_row);
    if (slab <= 0) return;
    const bool few_rows = slab <= kRows / 2;
    Real* to = sums + split * size + ((group * taps + tap) * rows + first_row) * wide;
    std::memset(to, 0, sizeof(Real) * slab * wide);
    const Reach r0 = reach(p, 0, tap / (p.kernel[1] * last_taps)), r1 = reach(p, 1, tap / last_taps % p.kernel[1]);
    const Reach r2 = together ? Reach{-p.low[2], 0, p.output[2]} : reach(p, 2, tap % last_taps);
    if (r2.low >= r2.high) return;
    thread_local std::vector<Packed> row_pack, lane_pack;
    thread_local std::vector<Stored> stage;
    if (staged) stage.resize(kPositions * wide_in);
    // An odd number of cache lines between positions: with an even one they would compete for the same cache sets.
    const Index row_step = slab <= 16 ? up(slab, kLanes) : up(slab, 32) + 16;
    row_pack.resize(kPackedRows * row_step);
    lane_pack.resize(kPackedRows * wide);

    Index held = 0;
    auto flush = [&] {
      if (held == 0) return;
      lane_blocks(wide, few_rows, [&](Index lane, int vectors) {
        const Index block = vectors == 4 ? kRows / 2 : vectors == 2 ? kRows : 2 * kRows;
        for (Index r = 0; r < slab; r += block) {
          const Index some = std::min(block, slab - r);
          const Outer run = vectors == 4 ? kOuter4[some - 1] : vectors == 2 ? kOuter2[some - 1] : kOuter1[some - 1];
          run(row_pack.data() + r, row_step, lane_pack.data() + lane * kPackedRows, kPairs ? (held + 1) / 2 : held, to + r * wide + lane, wide);
        }
      });
      held = 0;
    };
    // Splits may begin and end inside a line: one-dimensional data has few lines.
    const Index begin = split * positions / splits, end = (split + 1) * positions / splits;
    for (Index line = begin / p.output[2]; line * p.output[2] < end; ++line) {
      const Index q1 = line % p.output[1], q0 = line / p.output[1] % p.output[0], n = line / p.output[1] / p.output[0];
      if (q0 < r0.low || q0 >= r0.high || q1 < r1.low || q1 >= r1.high) continue;
      const Index q_low = std::max(r2.low, begin - line * p.output[2]);
      const Index q_high = std::min(r2.high, end - line * p.output[2]);
      const Index u0 = p.stride[0] * q0 + r0.shift, u1 = p.stride[1] * q1 + r1.shift;
      const Stored* x_line = x + ((n * p.input[0] + u0) * p.input[1] + u1) * p.input[2] * x_pixel + group * p.in;
      const Stored* y_line = y + ((n * p.output[0] + q0) * p.output[1] + q1) * p.output[2] * y_pixel + group * p.out;
      for (Index q = q_low; q < q_high;) {
        const Index some = std::min(kPositions - held, q_high - q), u = p.stride[2] * q + r2.shift;
        Side from_x{x_line + u * x_pixel, p.stride[2] * x_pixel, -u * x_pixel, (p.input[2] - u) * x_pixel, together};
        // Written straight into the rows' panel where these are all the rows of the task.
        const bool direct = staged && !swap && slab == rows;
        if (staged) {
          auto take = [&](Index t, const auto& to) {
            // Positions k of this piece whose pixel u + s*k + d*t exists.
            const Index first = u + t * p.dilation[2], s = p.stride[2], last = p.input[2] - 1 - first;
            const Index low = std::clamp<Index>(first >= 0 ? 0 : (-first + s - 1) / s, 0, some);
            const Index high = std::clamp<Index>(last < 0 ? 0 : last / s + 1, low, some);
            for (Index k = 0; k < low; ++k) to.put(k, t * p.in, nullptr, 0, p.in);
            for (Index k = low; k < high; ++k) to.put(k, t * p.in, x_line + (first + s * k) * x_pixel, p.in, p.in);
            for (Index k = high; k < some; ++k) to.put(k, t * p.in, nullptr, 0, p.in);
          };
          for (Index t = 0; t < span; ++t) {
            if (direct) {
              take(t, Panel<Packed>{row_pack.data(), row_step, held});
            } else {
              take(t, Panel<Stored>{stage.data(), wide_in, 0});
            }
          }
          from_x = {stage.data(), wide_in, 0, 0, false};
        }
        const Side from_y{y_line + q * y_pixel, y_pixel, 0, 0, false};
        const Side &row_side = swap ? from_y : from_x, &lane_side = swap ? from_x : from_y;
        if (!direct) pack_side(row_side, some, first_row, slab, slab, Panel<Packed>{row_pack.data(), row_step, held});
        lane_blocks(wide, few_rows, [&](Index lane, int vectors) {
          const Index width = vectors * kLanes;
          pack_side(lane_side, some, lane, std::min(width, lanes - lane), width,
                    Panel<Packed>{lane_pack.data() + lane * kPackedRows, width, held});
        });
        held += some;
        q += some;
        if (held == kPositions) flush();
      }
    }
    flush();
  });
  if (in_place) return;
  add_splits(sums, size, splits, pool);

  // Move the sums to the result's order: (tap, in, group x out).
  pool.run(taps * p.groups, [&](Index task) {
    const Index tap = task % taps, group = task / taps;
    const Real* from = sums + (group * taps + tap) * rows * wide;
    Stored* to = w + tap * wide_in * y_pixel + group * p.out;
    for (Index i = 0; i < wide_in; ++i, to += y_pixel) {
      if (swap) {
        for (Index o = 0; o < p.out; ++o) round_to(to[o], from[o * wide + i]);
      } else {
        round_run(to, from + i * wide, p.out);
      }
    }
  });
}

}  // namespace
}  // namespace jaxconv
