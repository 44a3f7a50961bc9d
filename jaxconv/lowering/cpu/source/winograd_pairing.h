// The kernel face for short kernels at step 1, by minimal filtering: the transpose of what winograd.h does. Sums of x's
// pixels and sums of y's are multiplied frequency by frequency over all tiles, and the taps are sums of these products.
#pragma once
#include "pairing.h"
#include "winograd.h"

namespace jaxconv {
namespace {

constexpr Index kBothSums = 4 * 1024 * 1024;  // bytes of both sides' sums that are under way,
constexpr Index kOwnProducts = 160 * 1024;    // and of the products that a task may have for its own
constexpr Index kSumming = 16;                // tiles of a task that sums pixels

template <int K1, int K2>
struct PairFilter : Filter<K1, K2> {
  using Base = Filter<K1, K2>;
  using Base::c, Base::g, Base::t1, Base::t2, Base::total;
  using Base::F, Base::I1, Base::I2, Base::R1, Base::R2;
  using typename Base::First;
  using typename Base::Second;

  // Sums of y's pixels: (frequency, tile, channel).
  void sum_results(const Stored* y, const Spot* spots, Index count, const Team& team, const Stored* none, Real* to,
                   Index plane, Index pitch) const {
    const Index all = team.groups * g.out, apart1 = t1.apart < t1.count ? t1.apart * g.result_size[2] * total : 0;
    const Index apart2 = t2.apart < t2.count ? t2.apart * total : 0;
    y += team.first * g.out;
    for (const Spot* s = spots; s < spots + count; ++s, to += pitch) {
      const Stored* from[R1][R2];
      for (int i = 0; i < R1; ++i)
        for (int j = 0; j < R2; ++j)
          from[i][j] = i < s->real1 && j < s->real2 ? y + s->result + i * apart1 + j * apart2 : none;
      auto sum = [&](Index at, auto read) __attribute__((always_inline)) {
        Vec half[I1][R2], d[I2];
#pragma GCC unroll 2
        for (int j = 0; j < R2; ++j) {
          Vec v[R1];
#pragma GCC unroll 2
          for (int i = 0; i < R1; ++i) v[i] = read(from[i][j] + at);
          First::spread(v, 1, &half[0][j], R2);
        }
#pragma GCC unroll 4
        for (int i = 0; i < I1; ++i) {
          Second::spread(half[i], 1, d, 1);
#pragma GCC unroll 4
          for (int j = 0; j < I2; ++j) store(to + at + (i * I2 + j) * plane, d[j]);
        }
      };
      Index at = 0;
      for (; at + kLanes <= all; at += kLanes) sum(at, [](const Stored* p) { return load(p); });
      if (at < all) sum(at, [&](const Stored* p) { return load_part(p, static_cast<int>(all - at)); });
    }
  }

  // The taps that products, (frequency, row, lane), make: tap k1, k2 at to[k1][k2] + row * next_row + lane * next_lane,
  // where there is one. Returns zeros, if all are finite.
  Vec taps(const Real* from, Index plane, Index rows, Index lanes, Stored* const (&to)[K1][K2], Index next_row,
           Index next_lane) const {
    Vec check{};
    for (Index row = 0; row < rows; ++row)
      for (Index lane = 0; lane < lanes; lane += kLanes, from += kLanes) {
        const int some = static_cast<int>(std::min<Index>(kLanes, lanes - lane));
        Vec half[K1][I2], tap[K2];
#pragma GCC unroll 4
        for (int j = 0; j < I2; ++j) {
          Vec m[I1];
#pragma GCC unroll 4
          for (int i = 0; i < I1; ++i) m[i] = load(from + (i * I2 + j) * plane);
          First::gathered(m, 1, &half[0][j], I2);
        }
#pragma GCC unroll 3
        for (int i = 0; i < K1; ++i) {
          Second::gathered(half[i], 1, tap, 1);
#pragma GCC unroll 3
          for (int j = 0; j < K2; ++j) {
            if (!to[i][j]) continue;
            Stored* at = to[i][j] + row * next_row + lane * next_lane;
            check += tap[j] * Real(0);
            if (next_lane == 1) {
              store_part(at, tap[j], some);
            } else {
              for (int k = 0; k < some; ++k) at[k * next_lane] = tap[j][k];
            }
          }
        }
      }
    return check;
  }
};

// The whole face; x is g's data. Returns whether all of w is finite; where it is not, it is not to be used.
template <int K1, int K2>
bool winograd_pairing(const Problem& p, const Gather& g, const Class& c, const Tiles& t1, const Tiles& t2,
                      const Stored* y, Stored* w, const Pool& pool) {
  const PairFilter<K1, K2> filter{{g, c, t1, t2}};
  constexpr int F = Filter<K1, K2>::F;
  const std::vector<Share> shares = filter.shares();
  const Index depth = shares.size(), tiles = filter.tiles, total = filter.total;
  const bool swap = up(p.in, kLanes) * p.out < up(p.out, kLanes) * p.in;
  const Index rows = swap ? p.out : p.in, lanes = swap ? p.in : p.out, wide = up(lanes, kLanes);
  const Index slabs = (rows + kSlab - 1) / kSlab, slab = (rows + slabs - 1) / slabs;
  const Index plane = rows * wide + kSkew, items = depth * F, size = p.groups * items * plane;
  // Few products stay in a cache: a task then has its own, and adds to them whatever its tiles come to. Of many each task
  // has some, and adds up what all have summed.
  const bool few = team_of(g) * items * plane * static_cast<Index>(sizeof(Real)) <= kOwnProducts;
  const Index team = few ? team_of(g) : p.groups, teams = (p.groups + team - 1) / team;
  const Index x_pitch = up(team * p.in, 32) + kSkew, y_pitch = up(team * p.out, 32) + kSkew;
  const Index bytes = static_cast<Index>(sizeof(Real)) * F * (depth * x_pitch + y_pitch);
  // At least so many that passing over the products takes no longer than passing over the sums.
  const Index least = few ? 2 * kSumming : std::max<Index>(96, p.in * p.out / (p.in + p.out));
  const Index fit = std::clamp<Index>((few ? kTransformed : kBothSums) / bytes, least, std::max<Index>(least, 1024));
  const Index chunk = up(std::min(fit, tiles), kSumming);
  const Index x_plane = chunk * x_pitch + kSkew, y_plane = chunk * y_pitch + kSkew;
  const std::vector<Stored> zeros(team * std::max(p.in, p.out) + kWide, Stored{0});
  auto sum = [&](const Team& groups, Index first, Index count, Real* x_sums, Real* y_sums) {
    thread_local std::vector<Spot> spots;
    filter.place(first, count, spots);
    for (Index t = 0; t < depth; ++t)
      filter.sum_pixels(spots.data(), count, shares[t], groups, zeros.data(), x_sums + t * F * x_plane, x_plane,
                        x_pitch);
    filter.sum_results(y, spots.data(), count, groups, zeros.data(), y_sums, y_plane, y_pitch);
  };
  // Adds the products of an item, (share, frequency), and of some rows.
  auto multiply = [&](Index item, Index group, Index row, Index some, const Real* x_sums, const Real* y_sums,
                      Index count, Real* to) {
    thread_local Sums sums;
    const Real *x_at = x_sums + item * x_plane + group * p.in, *y_at = y_sums + item % F * y_plane + group * p.out;
    sums.start(to, some, lanes, 0);
    for (Index k = 0; k < count;) {
      const Index held = std::min(sums.room(), count - k);
      sums.hold(swap, row, x_at + k * x_pitch, x_pitch, y_at + k * y_pitch, y_pitch, held);
      k += held;
    }
    sums.add();
  };
  constexpr Index R = Filter<K1, K2>::R1 * Filter<K1, K2>::R2;  // positions of a tile
  const Index splits = few ? splits_of(R * tiles, R * chunk, teams) : 1;
  const Scratch<Real> products(splits * size);
  if (few) {
    pool.run(teams * splits, [&](Index task) {
      const Index split = task % splits, begin = split * tiles / splits, end = (split + 1) * tiles / splits;
      const Index from = task / splits * team;
      const Team groups{from, std::min(team, p.groups - from)};
      const Scratch<Real> x_sums(items * x_plane), y_sums(F * y_plane);
      Real* const own = products.get() + split * size + from * items * plane;
      std::memset(own, 0, sizeof(Real) * groups.groups * items * plane);
      for (Index first = begin; first < end; first += chunk) {
        const Index count = std::min(chunk, end - first);
        sum(groups, first, count, x_sums.get(), y_sums.get());
        for (Index k = 0; k < groups.groups * items; ++k)
          for (Index row = 0; row < rows; row += slab)
            multiply(k % items, k / items, row, std::min(slab, rows - row), x_sums.get(), y_sums.get(), count,
                     own + k * plane + row * wide);
      }
    });
    add_splits(products.get(), size, splits, pool);
  } else {
    const Scratch<Real> x_sums(items * x_plane), y_sums(F * y_plane);
    for (Index first = 0; first < tiles; first += chunk) {
      const Index count = std::min(chunk, tiles - first);
      pool.run((count + kSumming - 1) / kSumming, [&](Index task) {
        const Index at = task * kSumming;
        sum({0, p.groups}, first + at, std::min(kSumming, count - at), x_sums.get() + at * x_pitch,
            y_sums.get() + at * y_pitch);
      });
      pool.run(p.groups * items * slabs, [&](Index task) {
        const Index row = task % slabs * slab, some = std::min(slab, rows - row), k = task / slabs;
        Real* const to = products.get() + k * plane + row * wide;
        if (first == 0) std::memset(to, 0, sizeof(Real) * some * wide);
        multiply(k % items, k / items, row, some, x_sums.get(), y_sums.get(), count, to);
      });
    }
  }
  std::atomic<bool> finite{true};
  const Index some = std::max<Index>(1, kLittle / std::max<Index>(1, F * wide)), pieces = (rows + some - 1) / some;
  pool.run(p.groups * depth * pieces, [&](Index task) {
    const Index from = task % pieces * some, number = task / pieces, t = number % depth, group = number / depth;
    Stored* to[K1][K2];
    for (int i = 0; i < K1; ++i)
      for (int j = 0; j < K2; ++j) {
        const Index tap1 = shares[t].part1->tap[i], tap2 = shares[t].part2->tap[j];
        const Index tap = (shares[t].tap * p.kernel[1] + tap1) * p.kernel[2] + tap2;
        to[i][j] = tap1 < 0 || tap2 < 0 ? nullptr : w + tap * p.in * total + group * p.out + from * (swap ? 1 : total);
      }
    const Real* at = products.get() + number * F * plane + from * wide;
    const Vec check =
        filter.taps(at, plane, std::min(some, rows - from), lanes, to, swap ? 1 : total, swap ? total : 1);
    if (!zeros_only(check)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace
}  // namespace jaxconv
