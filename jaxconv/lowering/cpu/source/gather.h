// apply and adjoint: every result position gathers, tap by tap, the operand's pixels times that tap's matrix.
//
// Along an axis a result position j (of one residue class, for the adjoint) and tap t meet operand position
// step*j + offset[t], or nothing where that lies outside. Pixels that do not exist point at a row of zeros, and a tap
// that no row of a tile meets is skipped: nothing is stuffed with zeros or unrolled into patches.
#pragma once
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "epilogue.h"
#include "pairs.h"
#include "scratch.h"

namespace jaxconv {
namespace {

struct Axis {
  Index count, first, stride;  // result positions first + stride*j, j < count
  Index step;                  // operand position step*j + offset
  std::vector<Index> tap, offset;
};

// Positions low <= j < high of an axis that find their operand position step*j + offset among `size`.
struct Found {
  Index low, high;
};
inline Found found(const Axis& axis, Index offset, Index size) {
  const Index last = size - 1 - offset;
  const Index low = std::min(axis.count, offset >= 0 ? 0 : (-offset + axis.step - 1) / axis.step);
  return {low, std::max(low, last < 0 ? 0 : std::min(axis.count, last / axis.step + 1))};
}

// The places along an axis where a tap enters or leaves the operand, in order, with both ends of the axis. Between two
// of them every position meets the same taps.
inline std::vector<Index> cuts_of(const Axis& axis, Index size) {
  std::vector<Index> cuts{0, axis.count};
  for (Index offset : axis.offset) {
    const Found met = found(axis, offset, size);
    cuts.insert(cuts.end(), {met.low, met.high});
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

// How many pairs of a result position and a tap find an operand position.
inline double meetings(const Axis& axis, Index size) {
  double all = 0;
  for (Index offset : axis.offset) {
    const Found met = found(axis, offset, size);
    all += met.high - met.low;
  }
  return all;
}

struct Gather {
  const Stored* data;  // operand, batch x positions x pixel
  Stored* result;      // batch x positions x (groups * out)
  Index batch;
  std::array<Index, 3> data_size, result_size;
  Index pixel;            // numbers from one operand position to the next
  Index groups, in, out;  // contracted and resulting channels of a group
  Index taps;             // of the whole kernel
  const After* after = nullptr;  // what is done to results, if anything
};

// Result positions that share their taps: all of them for apply, one residue modulo the stride for the adjoint.
struct Class {
  std::array<Axis, 3> axis;
  std::vector<Index> taps;  // index of each of the class's taps among the packed ones
  Index skip, in;           // of a packed tap's contracted numbers: how many the class skips, and how many it then uses
  Index positions() const { return axis[0].count * axis[1].count * axis[2].count; }
};

// With fewer contracted channels than this, the taps of the last axis are contracted together, as one run of memory.
constexpr Index kThin = 32;
constexpr Index kPanel = 128 * 1024;       // bytes of weights that should stay in the second-level cache
constexpr Index kTaps = 32;                // of one pointer table
constexpr Index kPointers = 64 * kTaps;    // of one table, which stays in the first-level cache
constexpr Index kChunk = 32 * kRows;       // result positions handled at a time, at most
constexpr Index kLittle = 16384;      // numbers that are packed sooner than another thread is asked
constexpr Index kFew = 4;             // so few resulting channels are summed over lanes of contracted ones
// Whether results are rounded as they are written: what is added up in several steps then waits elsewhere.
constexpr bool kRounded = !std::is_same_v<Stored, Real>;

// The chunk's pointers: where each tap finds each result position's operand pixel, and where results go.
class Table {
 public:
  Table() : pixels_(kPointers + kChunk), results_(kChunk) {}

  const Stored* const* pixels(Index position) const { return pixels_.data() + position; }
  Stored* const* results(Index position) const { return results_.data() + position; }

  void place(const Gather& g, const Class& c, Index first, Index count) {
    const Index n1 = c.axis[1].count, n2 = c.axis[2].count, total = g.groups * g.out;
    segments_.clear();
    for (Index p = 0; p < count;) {
      const Index number = first + p, j2 = number % n2, line = number / n2;
      const Index j1 = line % n1, j0 = line / n1 % c.axis[0].count, n = line / (n1 * c.axis[0].count);
      const Index some = std::min(count - p, n2 - j2);
      segments_.push_back({n, j0 * c.axis[0].step, j1 * c.axis[1].step, j2, p, some});
      const Index where = ((n * g.result_size[0] + c.axis[0].first + c.axis[0].stride * j0) * g.result_size[1] +
                           c.axis[1].first + c.axis[1].stride * j1) * g.result_size[2] + c.axis[2].first + c.axis[2].stride * j2;
      Stored* at = g.result + where * total;
      for (Index k = 0; k < some; ++k, at += c.axis[2].stride * total) results_[p + k] = at;
      p += some;
    }
  }

  void point(const Gather& g, const Class& c, Index first, Index count, Index pitch, const Stored* none) {
    const Index n1 = c.axis[1].tap.size(), n2 = c.axis[2].tap.size(), step = c.axis[2].step;
    for (Index k = 0; k < count; ++k) {
      const Index t = first + k;
      const Index o0 = c.axis[0].offset[t / (n1 * n2)], o1 = c.axis[1].offset[t / n2 % n1];
      const Index o2 = c.axis[2].offset[t % n2];
      const Found inside = found(c.axis[2], o2, g.data_size[2]);
      for (const Segment& s : segments_) {
        const Stored** row = pixels_.data() + k * pitch + s.position;
        const Index u0 = s.u0 + o0, u1 = s.u1 + o1;
        Index begin = s.count, end = s.count;
        if (u0 >= 0 && u0 < g.data_size[0] && u1 >= 0 && u1 < g.data_size[1]) {
          begin = std::clamp<Index>(inside.low - s.j2, 0, s.count);
          end = std::clamp<Index>(inside.high - s.j2, begin, s.count);
        }
        for (Index p = 0; p < begin; ++p) row[p] = none;
        // Counted, not walked: no pointer is made outside of the operand.
        Index pixel = ((s.n * g.data_size[0] + u0) * g.data_size[1] + u1) * g.data_size[2] + step * (s.j2 + begin) + o2;
        for (Index p = begin; p < end; ++p, pixel += step) row[p] = g.data + pixel * g.pixel;
        for (Index p = end; p < s.count; ++p) row[p] = none;
      }
    }
  }

 private:
  struct Segment {  // consecutive positions of the last axis
    Index n, u0, u1, j2, position, count;
  };
  std::vector<Segment> segments_;
  std::vector<const Stored*> pixels_;  // taps x positions
  std::vector<Stored*> results_;
};

// What a tile is given: `taps` rows of pointers, and the packed matrices of its block of channels.
struct Tile {
  const Stored* const* table;
  Index pitch, taps;
  const Stored* none;
  Index shift, in;  // first contracted channel, and how many
  const Packed* w;
  Index tap_stride, row;  // from one packed tap to the next, and from one resulting channel to the next of few
  const Index* tap_index;
  Stored* const* result;
  Index result_shift;
  int valid;
  bool add, last;         // to what earlier taps gave; the result is whole then
  Real* sums;             // of earlier taps, where `kRounded`
  Index sums_step;
  const After* after;
  Index skip;              // numbers of the packed taps that come before the pixels', where `kPairs`

  template <int P>
  bool meet(Index t, const Stored* (&pixel)[P]) const {
    bool met = false;
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) {
      pixel[p] = table[t * pitch + p];
      met |= pixel[p] != none;
      pixel[p] += shift;
    }
    return met;
  }
};

// Contracted numbers that the address of a pixel is loaded for: their weights take registers, too.
constexpr int kAtOnce = JAXCONV_VECTOR == 64 ? 2 : 1;

// sum[p] += row[i + u] * value(p, i + u), for U contracted channels, or pairs of them.
template <int U, int P, int V, class Value>
[[gnu::always_inline]] inline void multiply_some(Vec (&sum)[P][V], const Packed* row, Index i, const Value& value) {
  PackedVec weight[U][V];
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) weight[u][v] = load_packed(row + (u * V + v) * kLanes);
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const Packed number = value(p, i + u);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) add_product(sum[p][v], weight[u][v], number);
    }
  }
}

// The same for `count` of them.
template <int P, int V, class Value>
[[gnu::always_inline]] inline void multiply(Vec (&sum)[P][V], const Packed* row, Index count, const Value& value) {
  Index i = 0;
  for (; i + kAtOnce <= count; i += kAtOnce, row += kAtOnce * V * kLanes) multiply_some<kAtOnce>(sum, row, i, value);
  if constexpr (kAtOnce > 1) {
    if (i < count) multiply_some<1>(sum, row, i, value);
  }
}

// Channels [first, first + count) of some pixels as they are computed with.
template <int P>
[[gnu::always_inline]] inline void widen_pixels(Real (&to)[P][kWide], const Stored* const (&pixel)[P], Index first, int count) {
  for (int p = 0; p < P; ++p) {
    const Stored* from = pixel[p] + first;
    if (count == kWide) {
      store(to[p], load(from));
      store(to[p] + kLanes, load(from + kLanes));
    } else if (count >= kLanes) {
      store(to[p], load(from));
      store(to[p] + kLanes, load_part(from + kLanes, count - kLanes));
    } else {
      store(to[p], load_part(from, count));
    }
  }
}

// The results of a tile of some rows and vectors. Once for all tiles: each would otherwise be twice as long.
[[gnu::noinline]] inline void write_rounded(const Tile& a, const Real* from, int rows, int vectors) {
  for (int p = 0; p < rows; ++p) {
    Stored* at = a.result[p] + a.result_shift;
    for (int left = a.valid, v = 0; v < vectors; ++v, left -= kLanes, from += kLanes)
      store_part(at + v * kLanes, load(from), std::clamp(left, 0, kLanes));
  }
}

// Lanes are resulting channels: sum[p] += w[tap][i] * pixel[p][i]. `then`: the results are whole, and something follows.
template <int P, int V, bool then>
void wide_tile(const Tile& a) {
  Vec sum[P][V];
  const bool whole = a.valid == V * kLanes;
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (kRounded) {
        sum[p][v] = a.add ? load(a.sums + p * a.sums_step + v * kLanes) : Vec{};
        continue;
      }
      const Stored* at = a.result[p] + a.result_shift + v * kLanes;
      sum[p][v] = !a.add ? Vec{} : whole ? load(at) : load_part(at, std::clamp(a.valid - v * kLanes, 0, kLanes));
    }
  }
  for (Index t = 0; t < a.taps; ++t) {
    const Stored* pixel[P];
    if (!a.meet(t, pixel)) continue;
    const Packed* row = a.w + a.tap_index[t] * a.tap_stride;
    if constexpr (kPairs) {
      const Index half = a.skip % 2, pairs = (a.in - half) / 2;
      // Where the skipped numbers end inside of a pair, its first number is left out.
      if (half) multiply_some<1>(sum, row, 0, [&](int p, Index) { return Pair{pixel[p][0].bits} << 16; });
      row += half * V * kLanes;
      multiply(sum, row, pairs, [&](int p, Index i) { return pair_at(pixel[p] + half + 2 * i); });
      const Index last = half + 2 * pairs;
      if (last < a.in) multiply_some<1>(sum, row + pairs * V * kLanes, 0, [&](int p, Index) { return Pair{pixel[p][last].bits}; });
    } else if constexpr (kRounded) {
      for (Index i = 0; i < a.in; i += kWide, row += kWide * V * kLanes) {
        const int some = static_cast<int>(std::min<Index>(kWide, a.in - i));
        Real wide[P][kWide];
        widen_pixels(wide, pixel, i, some);
        multiply(sum, row, some, [&](int p, Index k) { return wide[p][k]; });
      }
    } else {
      multiply(sum, row, a.in, [&](int p, Index i) { return pixel[p][i]; });
    }
  }
  if constexpr (then) {
    Real wide[P][V * kLanes];
    Stored* to[P];
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) {
      to[p] = a.result[p] + a.result_shift;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(wide[p] + v * kLanes, sum[p][v]);
    }
    a.after->write(wide[0], V, to, P, a.result_shift, a.valid);
    return;
  }
  if constexpr (kRounded) {
    Real wide[P][V * kLanes];
    Real* to = a.last ? wide[0] : a.sums;
    const Index step = a.last ? V * kLanes : a.sums_step;
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(to + p * step + v * kLanes, sum[p][v]);
    }
    if (a.last) write_rounded(a, wide[0], P, V);
    return;
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Stored* at = a.result[p] + a.result_shift + v * kLanes;
      if (whole) {
        store(at, sum[p][v]);
      } else {
        store_part(at, sum[p][v], std::clamp(a.valid - v * kLanes, 0, kLanes));
      }
    }
  }
}

inline Real total_of(Vec v) {  // pairwise
#if JAXCONV_MASKS == 512
  if constexpr (sizeof(Real) == 4) return _mm512_reduce_add_ps((__m512)v);
  if constexpr (sizeof(Real) == 8) return _mm512_reduce_add_pd((__m512d)v);
#endif
  Real part[kLanes];
  store(part, v);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int k = 0; k < half; ++k) part[k] += part[k + half];
  }
  return part[0];
}

// Lanes are contracted channels, for at most kFew resulting ones: sum[p][o] += w[tap][o] * pixel[p]. The lanes are added
// up at the end.
template <int P, int O>
void few_tile(const Tile& a) {
  Vec sum[P][O];
  clear(sum);
  constexpr int kTogether = kPairs ? 2 * kLanes : kLanes;
  const Index whole = a.in / kTogether * kTogether;
  const int rest = static_cast<int>(a.in - whole);
  const Index row = a.row;
  for (Index t = 0; t < a.taps; ++t) {
    const Stored* pixel[P];
    if (!a.meet(t, pixel)) continue;
    const Packed* w = a.w + a.tap_index[t] * a.tap_stride;
    Index i = 0;
    for (; i < whole; i += kTogether) {
      PackedVec weight[O];
#pragma GCC unroll 4
      for (int o = 0; o < O; ++o) weight[o] = load_run(w + o * row, a.skip + i);
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p) {
        const PackedVec value = load_run(pixel[p], i);
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o) add_product(sum[p][o], weight[o], value);
      }
    }
    if (rest > 0) {
#pragma GCC unroll 4
      for (int o = 0; o < O; ++o) {
        const PackedVec weight = load_run(w + o * row, a.skip + i, rest);  // what follows may be a tap that is left out
#pragma GCC unroll 32
        for (int p = 0; p < P; ++p) add_product(sum[p][o], weight, load_run(pixel[p], i, rest));
      }
    }
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int o = 0; o < O; ++o) {
      Real total = total_of(sum[p][o]);
      Stored* at = a.result[p] + a.result_shift + o;
      if constexpr (kRounded) {
        Real* before = a.sums + p * a.sums_step + o;
        if (a.add) total += *before;
        if (a.last) {
          round_to(*at, total);
        } else {
          *before = total;
        }
      } else {
        round_to(*at, a.add ? widened(*at) + total : total);
      }
    }
  }
}

using Run = void (*)(const Tile&);
template <int V, bool then, int... P>
constexpr std::array<Run, sizeof...(P)> wide_tiles(std::integer_sequence<int, P...>) {
  return {wide_tile<P + 1, V, then>...};
}
template <int V, int rows>
constexpr std::array<std::array<Run, rows>, 2> kTiles{wide_tiles<V, false>(std::make_integer_sequence<int, rows>{}),
                                                      wide_tiles<V, true>(std::make_integer_sequence<int, rows>{})};
constexpr auto& kWide2 = kTiles<2, kRows>;
constexpr auto& kWide1 = kTiles<1, kThinRows>;
template <int P>
constexpr std::array<Run, kFew> few_tiles() {
  return {few_tile<P, 1>, few_tile<P, 2>, few_tile<P, 3>, few_tile<P, 4>};
}
template <int... P>
constexpr std::array<std::array<Run, kFew>, sizeof...(P)> all_few_tiles(std::integer_sequence<int, P...>) {
  return {few_tiles<P + 1>()...};
}
constexpr auto kFewTiles = all_few_tiles(std::make_integer_sequence<int, kFewRows>{});

struct Block {  // of resulting channels
  Index group, first;
  int width, valid;     // padded to whole vectors, and how many are real
  std::size_t weights;  // where its packed matrices begin
};

enum class Form { wide, few, narrow };

// Resulting channels in blocks of two vectors, the rest in one where that is enough; few ones are a block of their own.
// `row` packed numbers, of few resulting channels, or of a lane.
inline std::vector<Block> blocks_of(const Gather& g, Form form, Index row, Index& size) {
  std::vector<Block> blocks;
  std::size_t weights = 0;
  for (Index group = 0; group < g.groups; ++group) {
    if (form == Form::few) {
      blocks.push_back({group, 0, 0, static_cast<int>(g.out), weights});
      weights += g.taps * g.out * row;
      continue;
    }
    for (Index o = 0; o < g.out;) {
      const Index left = g.out - o;
      const int width = left > kLanes ? kWide : kLanes;
      const int valid = static_cast<int>(std::min<Index>(width, left));
      blocks.push_back({group, o, width, valid, weights});
      weights += static_cast<std::size_t>(g.taps) * row * width;
      o += valid;
    }
  }
  size = weights;
  return blocks;
}

// The matrix of a packed tap: element (contracted i, resulting o) at i*next_in + o*next_out. Where taps are contracted
// together there are `taps` such matrices, `channels` contracted numbers each and `next_tap` apart.
struct Matrix {
  const Stored* at;
  Index next_in, next_out, channels, next_tap, taps;
};

#if defined(JAXCONV_PAIRS)
// Pairs of consecutive contracted channels for a block of resulting ones; where their count is odd, with a zero.
inline void pack_pairs(const Matrix& m, int valid, int width, Pair* to) {
  Index c = 0;
  for (Index k = 0; k < m.taps; ++k) {
    for (Index i = 0; i < m.channels; ++i, ++c) {
      const Stored* from = m.at + k * m.next_tap + i * m.next_in;
      Pair* at = to + c / 2 * width;
      if (m.next_out == 1) {
        pack_run(at, from, valid, c);
      } else if (m.next_in == 1 && c % 2 == 0 && i + 1 < m.channels) {  // a pair lies side by side
        for (int o = 0; o < valid; ++o) at[o] = pair_at(from + o * m.next_out);
        std::fill(at + valid, at + width, Pair{0});
        ++i, ++c;
      } else {
        if (c % 2 == 0) std::fill(at, at + width, Pair{0});
        for (int o = 0; o < valid; ++o) at[o] |= Pair{from[o * m.next_out].bits} << c % 2 * 16;
      }
    }
  }
}
#endif

template <class Weight>
void gather(const Gather& g, const std::vector<Class>& classes, Form form, const Pool& pool, Weight weight) {
  Index size = 0;
  const Index row = kPairs ? (form == Form::few ? up(g.in, 2 * kLanes) : up(g.in, 2)) / 2
                           : form == Form::few ? up(g.in, kLanes) : g.in;
  const std::vector<Block> blocks = blocks_of(g, form, row, size);
  auto tap_size = [&](const Block& b) { return row * (form == Form::few ? g.out : b.width); };
  auto pack = [&](const Block& b, Index t, Packed* to) {
    const Matrix m = weight(t, b.group, b.first);
    if (form == Form::few) {
      for (Index o = 0; o < g.out; ++o, to += row) {
#if defined(JAXCONV_PAIRS)
        std::memset(to, 0, sizeof(Pair) * row);
        char* at = reinterpret_cast<char*>(to);
        for (Index k = 0; k < m.taps; ++k)
          for (Index i = 0; i < m.channels; ++i, at += sizeof(Stored))
            std::memcpy(at, m.at + k * m.next_tap + i * m.next_in + o * m.next_out, sizeof(Stored));
#else
        Real* at = to;
        for (Index k = 0; k < m.taps; ++k)
          for (Index i = 0; i < m.channels; ++i) *at++ = widened(m.at[k * m.next_tap + i * m.next_in + o * m.next_out]);
        std::fill(at, to + row, Real{0});
#endif
      }
      return;
    }
#if defined(JAXCONV_PAIRS)
    pack_pairs(m, b.valid, b.width, to);
#else
    for (Index k = 0; k < m.taps; ++k) {
      const Stored* from = m.at + k * m.next_tap;
      if (m.next_out != 1 && m.next_in == 1) {
        for (int o = 0; o < b.width; o += kLanes)
          for (Index i = 0; i < m.channels; i += kLanes)
            transpose(from + o * m.next_out + i, m.next_out, std::min(b.valid - o, kLanes),
                      static_cast<int>(std::min<Index>(kLanes, m.channels - i)), to + i * b.width + o, b.width);
        to += m.channels * b.width;
        continue;
      }
      for (Index i = 0; i < m.channels; ++i, to += b.width, from += m.next_in) {
        if (m.next_out == 1) {
          widen(to, from, b.valid);
        } else {
          for (int o = 0; o < b.valid; ++o) to[o] = widened(from[o * m.next_out]);
        }
        std::memset(to + b.valid, 0, sizeof(Real) * (b.width - b.valid));
      }
    }
#endif
  };
  const std::vector<Stored> zeros(g.groups * g.in + kWide, Stored{0});
  const Stored* none = zeros.data();

  struct Task {
    const Class* c;
    Index first, count, block, end;
  };
  // Taps at a time, so that their matrices stay in a cache while the chunk's positions pass over them.
  const Index fit = form == Form::wide ? std::max<Index>(1, kPanel / static_cast<Index>(row * kWide * sizeof(Packed))) : kTaps;
  const Index step = std::min({kTaps, fit, std::max<Index>(1, g.taps)});
  const Index chunk = std::min(kChunk, kPointers / step / (2 * kRows) * (2 * kRows));
  Index chunks = 0;
  for (const Class& c : classes) chunks += (g.batch * c.positions() + chunk - 1) / chunk;
  // Classes that are one chunk each and share no taps need each matrix once, and pack it then: a large kernel is never
  // copied whole.
  Index met = 0;
  for (const Class& c : classes) met += c.taps.size();
  const bool once = chunks <= static_cast<Index>(classes.size()) && met <= g.taps;
  const Scratch<Packed> packed(once ? 0 : size);
  if (!once) {
    const Index matrices = static_cast<Index>(blocks.size()) * g.taps;
    const Index some = std::max<Index>(1, matrices * kLittle / std::max<Index>(size, 1));  // of a task
    pool.run((matrices + some - 1) / some, [&](Index task) {
      for (Index k = task * some; k < std::min(matrices, (task + 1) * some); ++k) {
        const Block& b = blocks[k / g.taps];
        pack(b, k % g.taps, packed.get() + b.weights + k % g.taps * tap_size(b));
      }
    });
  }
  std::vector<Index> in_order(once ? step : 0);
  std::iota(in_order.begin(), in_order.end(), 0);
  // Few positions: the channels are shared out as well.
  const Index parts = std::clamp<Index>((16 * pool.threads + chunks - 1) / std::max<Index>(chunks, 1), 1,
                                        std::max<Index>(1, blocks.size()));
  std::vector<Task> tasks;
  for (const Class& c : classes) {
    const Index all = g.batch * c.positions();
    for (Index first = 0; first < all; first += chunk) {
      for (Index part = 0; part < parts; ++part) {
        const Index all_blocks = blocks.size();
        tasks.push_back({&c, first, std::min(chunk, all - first), part * all_blocks / parts,
                         (part + 1) * all_blocks / parts});
      }
    }
  }
  // Few channels: all of them at once, where they lie side by side.
  const Index total = g.groups * g.out;
  bool apart = false;
  for (const Class& c : classes) apart |= c.axis[2].stride > 1;
  const bool few = g.after && form == Form::few, later = few && apart;
  pool.run(static_cast<Index>(tasks.size()), [&](Index number) {
    thread_local Table table;
    thread_local std::vector<Packed> own;
    thread_local std::vector<Real> sums;
    const Task& task = tasks[number];
    const Class& c = *task.c;
    table.place(g, c, task.first, task.count);
    const Index taps = c.taps.size();
    auto room = [&](const Block& b) { return form == Form::few ? kFew : b.width; };  // numbers of sums that wait
    Index sums_step = 0;
    if (kRounded && taps > step) {
      for (Index k = task.block; k < task.end; ++k) sums_step += room(blocks[k]);
      sums.resize(std::max<std::size_t>(sums.size(), sums_step * task.count));
    }
    for (Index t = 0; t < std::max<Index>(taps, 1); t += step) {
      const Index some = std::min(step, taps - t);
      table.point(g, c, t, some, task.count, none);
      Tile a{nullptr, task.count, some, none, 0, c.in, nullptr, 0, row, c.taps.data() + t, nullptr, 0, 0, t > 0, t + some >= taps, nullptr, sums_step, g.after, kPairs ? c.skip : 0};
      Real* sums_at = sums.data();
      for (Index k = task.block; k < task.end; ++k) {
        const Block& b = blocks[k];
        const Index most = form == Form::few ? kFewRows : b.width == kWide ? kRows : kThinRows;
        a.shift = b.group * g.in;
        a.w = packed.get() + b.weights;
        a.tap_stride = tap_size(b);
        if (once) {
          own.resize(std::max<std::size_t>(own.size(), some * a.tap_stride));
          for (Index k = 0; k < some; ++k) pack(b, c.taps[t + k], own.data() + k * a.tap_stride);
          a.w = own.data();
          a.tap_index = in_order.data();
        }
        if (kPairs) {
          if (form != Form::few) a.w += c.skip / 2 * b.width;
        } else {
          a.w += c.skip * (form == Form::few ? 1 : b.width);
        }
        a.result_shift = b.group * g.out + b.first;
        a.valid = b.valid;
        // Prefetch the next group's channels while this group's are used: they lie a pixel apart, a pattern that
        // processors do not foresee. The taps of a line read nearly the same pixels, so one tap's are enough.
        const bool ahead = k + 1 < task.end && blocks[k + 1].group != b.group;
        for (Index p = 0; p < task.count; p += most) {
          const Index rows = std::min(most, task.count - p);
          a.table = table.pixels(p);
          for (Index t = 0; ahead && t < some; t += c.axis[2].tap.size()) {
            for (Index r = 0; r < rows; ++r) {
              const Stored* next = a.table[t * a.pitch + r] + a.shift + g.in;
              for (Index i = 0; i < g.in; i += kCacheLine) __builtin_prefetch(next + i);
            }
          }
          a.result = table.results(p);
          a.sums = sums_at + p * sums_step;
          if (form == Form::few) {
            kFewTiles[rows - 1][g.out - 1](a);
          } else {
            const bool then = g.after && a.last;
            (b.width == kWide ? kWide2[then][rows - 1] : kWide1[then][rows - 1])(a);
          }
        }
        if (sums_step > 0) sums_at += room(b);
      }
    }
    if (!few || later) return;
    const Index channel = blocks[task.block].group * g.out, channels = (blocks[task.end - 1].group + 1) * g.out - channel;
    Stored* const* const at = table.results(0);
    for (Index p = 0, run; p < task.count; p += run) {
      run = 1;
      while (channels == total && p + run < task.count && at[p + run] == at[p] + run * total) ++run;
      g.after->finish(at[p] + channel, channel, run * channels);
    }
  });
  if (later) g.after->finish_all(g.result, g.batch * g.result_size[0] * g.result_size[1] * g.result_size[2], pool);
}

}  // namespace
}  // namespace jaxconv
