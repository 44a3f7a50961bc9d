// Which taps are filtered together, in which tiles, and whether that takes less time than plain sums.
#pragma once
#include <vector>

#include "gather.h"

namespace jaxconv {
namespace {

constexpr Index kLeastTiles = 2 * kRows;       // of a task,
constexpr double kMostSums = 8 * 1024 * 1024;  // and bytes of their sums at most
constexpr double kMostShares = 9;

// How an axis is tiled. Its taps are parts of up to three, `apart` result positions from one to the next: results j and
// j + apart meet part k's taps at operand positions step*j + offset[k] + (0, 1, 2, ...) * step*apart.
struct Tiles {
  struct Part {
    Index offset;
    std::array<Index, 3> tap;  // -1: another part's
  };
  int taps = 0;  // of a part; 0: the taps are not evenly spaced
  Index step = 1, apart = 0, count = 0;
  std::vector<Part> parts;

  explicit Tiles(const Axis& axis) : step(axis.step), count(axis.count) {
    // With a step only taps whose distance is a multiple of it read the same operand positions.
    std::vector<std::vector<std::pair<Index, Index>>> families;
    for (std::size_t t = 0; t < axis.tap.size(); ++t) {
      auto same = [&](const auto& family) { return (family[0].first - axis.offset[t]) % step == 0; };
      auto found = std::find_if(families.begin(), families.end(), same);
      if (found == families.end()) found = families.insert(found, {{}});
      found->push_back({axis.offset[t], axis.tap[t]});
    }
    for (auto& family : families) {
      std::sort(family.begin(), family.end());
      for (std::size_t k = 1; k < family.size(); ++k) {
        const Index distance = (family[k].first - family[k - 1].first) / step;
        if (apart == 0) apart = distance;
        if (apart != distance) return;
      }
    }
    apart = std::max<Index>(apart, 1);
    double least = 0;  // products a result
    for (int some = 1; some <= 3; ++some) {
      double products = 0;
      bool fits = true;
      for (const auto& family : families) {
        fits &= static_cast<int>(family.size()) >= some;
        const double parts = (family.size() + some - 1) / some;
        products += some == 1 ? parts : parts * (some + 1) / 2;
      }
      if (some == 1 || (fits && products < least)) taps = some, least = products;
    }
    // A last part begins earlier, without the taps that the one before has: were it longer than what is left, numbers
    // that no tap of a result meets would round it.
    for (const auto& family : families)
      for (std::size_t k = 0; k < family.size(); k += taps) {
        const std::size_t first = std::min(k, family.size() - taps);
        parts.push_back({family[first].first, {-1, -1, -1}});
        for (std::size_t i = k; i < first + taps; ++i) parts.back().tap[i - first] = family[i].second;
      }
    if (taps == 1) apart = 1;
  }
  // How many tiles, and j of the first result of tile k: one residue of j modulo `apart` after the other.
  Index tiles() const { return longer() * long_tiles() + (std::min(apart, count) - longer()) * short_tiles(); }
  Index first(Index k) const {
    const Index results = taps == 1 ? 1 : 2, before = longer() * long_tiles();
    if (apart == 1) return results * k;
    if (k < before) return k / long_tiles() + k % long_tiles() * results * apart;
    return longer() + (k - before) / short_tiles() + (k - before) % short_tiles() * results * apart;
  }
  // How many results of a tile exist.
  int real(Index j) const { return taps > 1 && j + apart < count ? 2 : 1; }

 private:
  // The first residues have a position more than the others.
  Index longer() const { return count % apart; }
  Index long_tiles() const { return tiles_of(count / apart + 1); }
  Index short_tiles() const { return tiles_of(count / apart); }
  Index tiles_of(Index positions) const { return taps == 1 ? positions : (positions + 1) / 2; }
};

// A tile: batch, operand positions at offset 0, where its first result lies, and how many results an axis are real.
struct Spot {
  Index n, u0, u1, u2, result;
  int real1, real2;
};

// Taps that are filtered together: one of the first axis, and a part of each other one.
struct Share {
  Index tap, offset;
  const Tiles::Part *part1, *part2;
};

// Times of vectors in cycles, fitted to layers of 1 to 512 channels: a sum of pixels, of products, of taps, and of
// products that make taps; and a packed tap of the other kernels.
#if JAXCONV_VECTOR == 64
constexpr double kPixelSum = 4.5, kProductSum = 5.7, kTapSum = 10, kProductTaps = 16;
#else
constexpr double kPixelSum = 2.4, kProductSum = 3.6, kTapSum = 7, kProductTaps = 11;
#endif
constexpr double kTileTime = 30, kPackTime = 10;
// Shares of the other kernels' time that are less for sure. Along one axis there is less to gain, and memory to wait
// for.
constexpr double kSurely = 0.9, kSurelyOne = 0.85;
#ifndef JAXCONV_FILTER_GAIN  // a test filters all that can be
#define JAXCONV_FILTER_GAIN 1
#endif

// Whether minimal filtering of a class takes less time than plain sums. A tap of a group is so many vectors, and plain
// sums pack them or not.
inline bool worth(const Gather& g, const Class& c, const Tiles& t1, const Tiles& t2, Index vectors, bool packed) {
  if (t1.taps < 1 || t2.taps < 2) return false;
  const double met0 = meetings(c.axis[0], g.data_size[0]), groups = g.groups;
  const double met = met0 * meetings(c.axis[1], g.data_size[1]) * meetings(c.axis[2], g.data_size[2]);
  const double taps = c.axis[0].tap.size() * c.axis[1].tap.size() * c.axis[2].tap.size();
  // Between groups of few channels the other kernels lose time; groups of fewer than a vector share one.
  const double between = g.groups > 1 && g.in >= kLanes ? 1 + 0.4 * kLanes * kLanes / (g.in * g.in) : 1;
  const double direct = groups * vectors * (between * g.batch * met / 2 + (packed ? kPackTime * taps : 0));
  const double tiles = static_cast<double>(t1.tiles()) * t2.tiles() * g.batch;
  const double parts = t1.parts.size() * t2.parts.size();
  const double sums = met0 * parts * (groups * vectors / 2 + kPixelSum * up(g.groups * g.in, kLanes) / kLanes);
  const double results = c.axis[0].count * groups * kProductSum * up(g.out, kLanes) / kLanes;
  const double f = (t1.taps == 1 ? 1 : t1.taps + 1) * (t2.taps + 1);
  const double bytes = sizeof(Real) * f * c.axis[0].tap.size() * parts * kLeastTiles * g.groups * g.in;
  const double filtered = tiles * (f * (sums + results) + kTileTime * c.axis[0].count) +
                          f * c.axis[0].tap.size() * parts * groups * vectors * (packed ? kTapSum : kProductTaps);
  // The kernel face sums pixels for all shares at once.
  const bool fits = packed ? bytes < kMostSums : c.axis[0].tap.size() * parts <= kMostShares;
  return fits && filtered < JAXCONV_FILTER_GAIN * (t1.taps == 1 ? kSurelyOne : kSurely) * direct;
}

}  // namespace
}  // namespace jaxconv
