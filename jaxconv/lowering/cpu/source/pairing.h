// The kernel face: w[t] is the product of x's pixels, shifted to tap t, with y's pixels, summed over all positions.
//
// One side's channels lie along the lanes, the other side's are broadcast, and both are read where they lie: a tile of
// sums stays in registers while it passes over some lines of positions. Where x has few channels the taps of the last
// axis are taken together: x then gives a run of span * in numbers for each position, and for those at the ends of a
// line, which lack some taps, a copy with zeros.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "pairs.h"
#include "sums.h"

namespace jaxconv {
namespace {

constexpr Index kPositions = 256;    // that a tile passes over at a time,
constexpr Index kPackedRows = 96;    // and where they are packed, one by one or in pairs
constexpr Index kPacks = 100;        // rows and lanes from which short vectors are packed
constexpr Index kSlab = 240;         // broadcast channels of a task, at most
constexpr Index kFewSums = 1 << 18;  // bytes of sums that stay in a second-level cache
constexpr Index kPass = 512;         // positions that all of few sums pass over at a time

// Consecutive positions: the first one's pixels, and the distances to the next one's.
template <class Number>
struct Row {
  const Number *rows, *lanes;
  Index row_step, lane_step, count;
};

// What a tile is given.
struct Outer {
  const Row<Packed>* positions;
  Index count;
  Index row, lane;  // first channels
  Real* to;
  Index to_step;
  int last;  // lanes of the last vector that are channels
};

template <bool whole, class Number>
inline PackedVec lanes_at(const Number* p, int count) {
  if constexpr (whole) {
    return load_packed(p);
  } else {
    return count == kLanes ? load(p) : load_part(p, count);
  }
}

// sum[r][lane] += rows[r] * lanes[lane] over all positions. So few sums that each would wait for the one before it are
// divided among U positions.
template <int R, int V, bool whole>
void outer(const Outer& a) {
  constexpr int U = std::min(4, (7 + R * V) / (R * V));
  Vec sum[U][R][V];
#pragma GCC unroll 32
  for (int u = 0; u < U; ++u) clear(sum[u]);
  const int last = a.last;
  auto add = [&](Vec (&some)[R][V], const Packed* row, const Packed* lane) __attribute__((always_inline)) {
    PackedVec value[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) value[v] = lanes_at<whole>(lane + v * kLanes, v < V - 1 ? kLanes : last);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) add_product(some[r][v], value[v], row[r]);
    }
  };
  for (Index n = 0; n < a.count; ++n) {
    const Row<Packed>& s = a.positions[n];
    const Packed *row = s.rows + a.row, *lane = s.lanes + a.lane;
    const Index row_step = s.row_step, lane_step = s.lane_step;
    Index k = s.count;
    if constexpr (U > 1) {
      for (; k >= U; k -= U) {
#pragma GCC unroll 8
        for (int u = 0; u < U; ++u) add(sum[u], row + u * row_step, lane + u * lane_step);
        row += U * row_step;
        lane += U * lane_step;
      }
    }
    for (; k > 0; --k, row += row_step, lane += lane_step) add(sum[0], row, lane);
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
#pragma GCC unroll 8
      for (int u = 1; u < U; ++u) sum[0][r][v] += sum[u][r][v];
      Real* at = a.to + r * a.to_step + v * kLanes;
      store(at, load(at) + sum[0][r][v]);
    }
  }
}

using RunOuter = void (*)(const Outer&);
template <int V, bool whole, int... R>
constexpr std::array<RunOuter, sizeof...(R)> outers(std::integer_sequence<int, R...>) {
  return {outer<R + 1, V, whole>...};
}
// The tile of some rows and vectors. Half precision is always packed, with zeros behind the last lane; and a mask is a
// register more, which there is where vectors are long.
template <int V>
RunOuter outer_of(Index rows, int last) {
  constexpr std::make_integer_sequence<int, 2 * kRows / V> all;
  static constexpr auto part = outers<V, kRounded>(all), whole = outers<V, kRounded || JAXCONV_VECTOR < 64>(all);
  return (last < kLanes ? part : whole)[rows - 1];
}

// The sums of one tap, group and slab of rows: `slab` x `wide` of them, and the positions that are to be added next.
class Sums {
 public:
  // Some positions may be copies, of `copied` numbers.
  void start(Real* to, Index slab, Index lanes, Index copied) {
    to_ = to, slab_ = slab, lanes_ = lanes, wide_ = up(lanes, kLanes), copied_ = copied;
    held_some_.clear();  // what a failed allocation left
    held_ = 0;
    // Packed, short vectors find consecutive memory, however far apart the positions lie; and numbers are widened once.
    packs_ = kRounded || (JAXCONV_VECTOR < 64 && std::min(slab, lanes) >= kPacks);
    most_ = packs_ ? kPackedRows * (1 + kPairs) : kPositions;
    // An odd number of cache lines between rows: with an even one they would compete for the same sets.
    row_step_ = up(slab, 32) + 16;
    copies_.resize(std::max<std::size_t>(copies_.size(), most_ * copied));
    if (packs_) {
      row_pack_.resize(std::max<std::size_t>(row_pack_.size(), kPackedRows * row_step_));
      lane_pack_.resize(std::max<std::size_t>(lane_pack_.size(), kPackedRows * 4 * kLanes));
    }
  }
  // The packed row of a position.
  static Index packed(Index position) { return kPairs ? position / 2 : position; }

  Index room() const { return most_ - held_; }
  Stored* copies() { return copies_.data() + held_ * copied_; }  // of the next positions
  void hold(const Row<Stored>& positions) {
    held_some_.push_back(positions);
    held_ += positions.count;
    if (held_ == most_) add();
  }
  // Consecutive positions of both sides; the lanes lie along x or, as a rule, along y.
  void hold(bool swap, Index row, const Stored* x, Index x_step, const Stored* y, Index y_step, Index count) {
    if (swap) {
      hold({y + row, x, y_step, x_step, count});
    } else {
      hold({x + row, y, x_step, y_step, count});
    }
  }
  void add() {
    if (held_ == 0) return;
    if (packs_) pack(&Row<Stored>::rows, &Row<Stored>::row_step, 0, slab_, row_pack_.data(), row_step_);
    for (Index lane = 0; lane < lanes_;) {
      const Index left = lanes_ - lane;
      const int vectors = slab_ <= kRows / 2 && left > 3 * kLanes ? 4 : left > kLanes ? 2 : 1;
      const Index width = vectors * kLanes;
      const int last = packs_ ? kLanes : static_cast<int>(std::min<Index>(kLanes, left - width + kLanes));
      const Index block = 2 * kRows / vectors, blocks = (slab_ + block - 1) / block;
      if (packs_) {
        const Index real = std::min(width, left);
        pack(&Row<Stored>::lanes, &Row<Stored>::lane_step, lane, real, lane_pack_.data(), width);
      }
      const Row<Packed> panel{row_pack_.data(), lane_pack_.data(), row_step_, width, packed(held_ + kPairs)};
      for (Index k = 0; k < blocks; ++k) {
        const Index r = k * slab_ / blocks, rows = (k + 1) * slab_ / blocks - r;
        const RunOuter run = vectors == 4   ? outer_of<4>(rows, last)
                             : vectors == 2 ? outer_of<2>(rows, last)
                                            : outer_of<1>(rows, last);
        Real* to = to_ + r * wide_ + lane;
        if (packs_) {
          run({&panel, 1, r, 0, to, wide_, last});
        } else {  // numbers lie as they are computed with
          const auto* held = reinterpret_cast<const Row<Packed>*>(held_some_.data());
          run({held, static_cast<Index>(held_some_.size()), r, lane, to, wide_, last});
        }
      }
      lane += width;
    }
    held_some_.clear();
    held_ = 0;
  }

 private:
  // Channels [first, first + count) of one side of all positions, and zeros to the end of the last vector.
  void pack(const Stored* Row<Stored>::*side, Index Row<Stored>::*step, Index first, Index count, Packed* to,
            Index to_step) const {
    Index number = 0;
    for (const Row<Stored>& s : held_some_) {
      const Stored* from = s.*side + first;
      const Index next = s.*step;
      for (Index k = 0; k < s.count; ++k, ++number) {
#if defined(JAXCONV_PAIRS)
        if (number % 2 == 0 && k + 1 < s.count) {
          pack_runs(to + number / 2 * to_step, from + k * next, from + (k + 1) * next, count);
          ++k, ++number;
          continue;
        }
#endif
        pack_run(to + packed(number) * to_step, from + k * next, count, number);
      }
    }
  }

  Real* to_ = nullptr;
  Index slab_ = 0, lanes_ = 0, wide_ = 0, most_ = 0, copied_ = 0, row_step_ = 0, held_ = 0;
  bool packs_ = false;
  std::vector<Row<Stored>> held_some_;
  std::vector<Stored> copies_;
  std::vector<Packed> row_pack_, lane_pack_;
};

// How the sums are laid out, (group, tap, row, lane), and divided into items.
struct Pairing {
  const Problem& p;
  bool together;  // the taps of the last axis, whose pixels are one run of memory
  Index span, wide_in, last_taps, taps;
  bool swap;  // lanes along x
  Index lanes, rows, wide, slabs, slab_rows, items, size;

  explicit Pairing(const Problem& p) : p(p) {
    together = p.kernel[2] > 1 && p.groups == 1 && p.dilation[2] == 1 && (p.in <= 32 || p.in * p.kernel[2] <= kSlab);
    span = together ? p.kernel[2] : 1;
    wide_in = span * p.in;
    last_taps = p.kernel[2] / span;
    taps = p.kernel[0] * p.kernel[1] * last_taps;
    swap = up(wide_in, kLanes) * p.out < up(p.out, kLanes) * wide_in;
    lanes = swap ? wide_in : p.out;
    rows = swap ? p.out : wide_in;
    wide = up(lanes, kLanes);
    const Index slabs_wanted = (rows + kSlab - 1) / kSlab;
    slab_rows = (rows + slabs_wanted - 1) / slabs_wanted;
    slabs = (rows + slab_rows - 1) / slab_rows;
    items = p.groups * taps * slabs;
    size = p.groups * taps * rows * wide;
  }

  Index first_row(Index item) const { return item % slabs * slab_rows; }
  Index slab(Index item) const { return std::min(slab_rows, rows - first_row(item)); }
  Index place(Index item) const { return (item / slabs * rows + first_row(item)) * wide; }

  // Adds the positions begin <= k < end to the sums of an item.
  void add(const Stored* x, const Stored* y, Index item, Index begin, Index end, Real* to) const {
    thread_local Sums sums;
    const Index tap = item / slabs % taps, group = item / slabs / taps;
    const Reach r0 = reach(p, 0, tap / (p.kernel[1] * last_taps)), r1 = reach(p, 1, tap / last_taps % p.kernel[1]);
    const Index first_tap = tap % last_taps * span;
    // Positions that meet all of the taps, and those that meet some.
    Index all_low = 0, all_high = p.output[2], low = p.output[2], high = 0;
    for (Index t = first_tap; t < first_tap + span; ++t) {
      const Reach r2 = reach(p, 2, t);
      all_low = std::max(all_low, r2.low);
      all_high = std::min(all_high, r2.high);
      if (r2.low < r2.high) {
        low = std::min(low, r2.low);
        high = std::max(high, r2.high);
      }
    }
    if (low >= high) return;
    if (all_low >= all_high) all_low = all_high = high;
    sums.start(to, slab(item), lanes, together ? wide_in : 0);
    const Index x_pixel = p.groups * p.in, y_pixel = p.groups * p.out, row = first_row(item);
    // A piece may begin and end inside a line: one-dimensional data has few lines.
    for (Index line = begin / p.output[2]; line * p.output[2] < end; ++line) {
      const Index q1 = line % p.output[1], q0 = line / p.output[1] % p.output[0], n = line / p.output[1] / p.output[0];
      if (q0 < r0.low || q0 >= r0.high || q1 < r1.low || q1 >= r1.high) continue;
      const Index first = std::max(low, begin - line * p.output[2]), last = std::min(high, end - line * p.output[2]);
      const Index u0 = p.stride[0] * q0 + r0.shift, u1 = p.stride[1] * q1 + r1.shift;
      const Stored* x_line = x + ((n * p.input[0] + u0) * p.input[1] + u1) * p.input[2] * x_pixel + group * p.in;
      const Stored* y_line = y + ((n * p.output[0] + q0) * p.output[1] + q1) * p.output[2] * y_pixel + group * p.out;
      for (Index q = first; q < last;) {
        const bool all = q >= all_low && q < all_high;
        const Index stop = all ? all_high : q < all_low ? all_low : high;
        const Index count = std::min({sums.room(), last - q, stop - q});
        const Index u = p.stride[2] * q + p.dilation[2] * first_tap - p.low[2];
        const Stored* from_x = all ? x_line + u * x_pixel : copied(x_line, u, count, sums.copies());
        const Stored* from_y = y_line + q * y_pixel;
        const Index x_step = all ? p.stride[2] * x_pixel : wide_in;
        sums.hold(swap, row, from_x, x_step, from_y, y_pixel, count);
        q += count;
      }
    }
    sums.add();
  }

  // The runs of taps from operand positions u, u + stride, ... on, with zeros for what does not exist.
  const Stored* copied(const Stored* x_line, Index u, Index count, Stored* to) const {
    Stored* at = to;
    for (Index k = 0; k < count; ++k, u += p.stride[2], at += wide_in) {
      const Index first = std::clamp<Index>(-u, 0, span), last = std::clamp<Index>(p.input[2] - u, first, span);
      std::fill(at, at + wide_in, Stored{0});
      if (first < last) std::copy_n(x_line + (u + first) * p.in, (last - first) * p.in, at + first * p.in);
    }
    return to;
  }
};

inline void dense_pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  const Pairing pairing(p);
  const Index positions = p.batch * p.output[0] * p.output[1] * p.output[2];
  const Index items = pairing.items, size = pairing.size, rows = pairing.rows, wide = pairing.wide;
  // Few sums stay in a cache: each piece of the positions is added to all of them before the next one.
  const bool few = items > 1 && size * static_cast<Index>(sizeof(Real)) <= kFewSums;
  const Index splits = splits_of(positions, 4 * kPackedRows, few ? 1 : items);
  // A single split without padded lanes adds up in the result itself.
  const bool in_place = !kRounded && splits == 1 && !pairing.swap && p.groups == 1 && wide == pairing.lanes;
  const Scratch<Real> scratch(in_place ? 0 : size * splits);
  Real* const sums = in_place ? reinterpret_cast<Real*>(w) : scratch.get();
  const Index parts = few ? 1 : items;
  pool.run(splits * parts, [&](Index task) {
    const Index split = task / parts, item = task % parts;
    const Index begin = split * positions / splits, end = (split + 1) * positions / splits;
    Real* own = sums + split * size;
    if (few) {
      std::memset(own, 0, sizeof(Real) * size);
      for (Index k = begin; k < end; k += kPass)
        for (Index i = 0; i < items; ++i) pairing.add(x, y, i, k, std::min(end, k + kPass), own + pairing.place(i));
    } else {
      own += pairing.place(item);
      std::memset(own, 0, sizeof(Real) * pairing.slab(item) * wide);
      pairing.add(x, y, item, begin, end, own);
    }
  });
  if (in_place) return;
  add_splits(sums, size, splits, pool);

  // Move the sums to the result's order: (tap, in, group x out).
  const Index taps = pairing.taps, y_pixel = p.groups * p.out;
  pool.run(taps * p.groups, [&](Index task) {
    const Index tap = task % taps, group = task / taps;
    const Real* from = sums + (group * taps + tap) * rows * wide;
    Stored* to = w + tap * pairing.wide_in * y_pixel + group * p.out;
    for (Index i = 0; i < pairing.wide_in; ++i, to += y_pixel) {
      if (pairing.swap) {
        for (Index o = 0; o < p.out; ++o) round_to(to[o], from[o * wide + i]);
      } else {
        round_run(to, from + i * wide, p.out);
      }
    }
  });
}

}  // namespace
}  // namespace jaxconv
