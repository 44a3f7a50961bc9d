// apply and adjoint by minimal filtering of the last two axes, or of the last: tiles of two results an axis. A 3x3
// kernel takes 16 products for 4 results instead of 36. Longer kernels, and those with a stride, are several short
// ones, whose products are added up, and so are the taps of the first axis.
//
// The products are matrices: sums of pixels times sums of taps, one matrix a frequency. A task takes some tiles, sums
// their pixels, and passes over blocks of resulting channels, all in a second-level cache. Sums of what is infinite are
// no numbers, and sums may overflow where results do not: a call that meets such a result is told to its caller.
#pragma once
#include <atomic>
#include <vector>

#include "minimal.h"
#include "tiles.h"

namespace jaxconv {
namespace {

constexpr Index kTransformed = 512 * 1024;  // bytes of a task's sums
constexpr Index kOneTask = 64;              // so few tiles are one task's
constexpr Index kTeam = 64;                 // channels of groups that are filtered together
constexpr Index kSkew = 16;                 // numbers of a cache line
constexpr Index kAhead = 8;                 // matrix rows, which processors do not foresee
constexpr Index kFinished = 32;             // tiles

inline bool zeros_only(Vec v) {
  for (int lane = 0; lane < kLanes; ++lane)
    if (!(v[lane] == 0)) return false;
  return true;
}

// Groups that are filtered together: a task's sums are those of their channels.
struct Team {
  Index first, groups;
};
inline Index team_of(const Gather& g) { return std::clamp<Index>(kTeam / std::max(g.in, g.out), 1, g.groups); }

template <int K1, int K2>
struct Filter {
  using First = Minimal<K1>;
  using Second = Minimal<K2>;
  static constexpr int I1 = First::products, I2 = Second::products, R1 = First::results_of, R2 = Second::results_of;
  static constexpr int F = I1 * I2;  // frequencies

  const Gather& g;
  const Class& c;
  const Tiles &t1, &t2;
  const Index n1 = t1.tiles(), n2 = t2.tiles(), n0 = c.axis[0].count;
  const Index tiles = g.batch * n0 * n1 * n2, total = g.groups * g.out;

  std::vector<Share> shares() const {
    std::vector<Share> all;
    for (std::size_t t = 0; t < c.axis[0].tap.size(); ++t)
      for (const auto& part1 : t1.parts)
        for (const auto& part2 : t2.parts) all.push_back({c.axis[0].tap[t], c.axis[0].offset[t], &part1, &part2});
    return all;
  }

  // Tiles [first, first + count).
  void place(Index first, Index count, std::vector<Spot>& spots) const {
    Index k2 = first % n2, k1 = first / n2 % n1, j0 = first / (n1 * n2) % n0, n = first / (n1 * n2 * n0);
    spots.clear();
    for (Index k = 0; k < count; ++k) {
      const Index j1 = t1.first(k1), j2 = t2.first(k2);
      const Index plane = n * g.result_size[0] + c.axis[0].first + c.axis[0].stride * j0;
      const Index line = plane * g.result_size[1] + c.axis[1].first + c.axis[1].stride * j1;
      const Index result = line * g.result_size[2] + c.axis[2].first + c.axis[2].stride * j2;
      spots.push_back({n, c.axis[0].step * j0, t1.step * j1, t2.step * j2, result * total, t1.real(j1), t2.real(j2)});
      if (++k2 < n2) continue;
      k2 = 0;
      if (++k1 < n1) continue;
      k1 = 0;
      if (++j0 < n0) continue;
      j0 = 0, ++n;
    }
  }

  // Sums of the pixels that the tiles meet in a share: (frequency, tile, channel), `plane` and `pitch` apart. Returns
  // whether there are any. Of all channels they are those of some groups.
  bool sum_pixels(const Spot* spots, Index count, const Share& share, const Team& team, const Stored* none, Real* to,
                  Index plane, Index pitch) const {
    const Index all = team.groups * g.in, size0 = g.data_size[0], size1 = g.data_size[1], size2 = g.data_size[2],
                pixel = g.pixel;
    const Index offset = share.offset, offset1 = share.part1->offset, offset2 = share.part2->offset;
    const Index apart1 = t1.step * t1.apart, apart2 = t2.step * t2.apart;
    // Distances may be longer than any array: what would never be used is not computed.
    const Index next1 = apart1 < size1 ? apart1 * size2 * pixel : 0, next2 = apart2 < size2 ? apart2 * pixel : 0;
    const Stored* const data = g.data + team.first * g.in;
    bool met = false;
    for (const Spot* s = spots; s < spots + count; ++s, to += pitch) {
      const Index u0 = s->u0 + offset, u1 = s->u1 + offset1, u2 = s->u2 + offset2;
      const Stored* from[I1][I2];
      const bool inside = u0 >= 0 && u0 < size0;
      if (inside && u1 >= 0 && u1 + (I1 - 1) * apart1 < size1 && u2 >= 0 && u2 + (I2 - 1) * apart2 < size2) {
        const Stored* const first = data + (((s->n * size0 + u0) * size1 + u1) * size2 + u2) * pixel;
#pragma GCC unroll 4
        for (int i = 0; i < I1; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < I2; ++j) from[i][j] = first + i * next1 + j * next2;
        }
        met = true;
      } else {
        for (int i = 0; i < I1; ++i)
          for (int j = 0; j < I2; ++j) {
            const Index v1 = u1 + i * apart1, v2 = u2 + j * apart2;
            const bool there = inside && v1 >= 0 && v1 < size1 && v2 >= 0 && v2 < size2;
            from[i][j] = there ? data + (((s->n * size0 + u0) * size1 + v1) * size2 + v2) * pixel : none;
            met |= there;
          }
      }
      auto sum = [&](Index at, auto read) __attribute__((always_inline)) {
        Vec d[I1][I2];
#pragma GCC unroll 4
        for (int i = 0; i < I1; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < I2; ++j) d[i][j] = read(from[i][j] + at);
        }
#pragma GCC unroll 4
        for (int j = 0; j < I2; ++j) First::data(&d[0][j], I2);
#pragma GCC unroll 4
        for (int i = 0; i < I1; ++i) Second::data(d[i], 1);
#pragma GCC unroll 4
        for (int i = 0; i < I1; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < I2; ++j) store(to + at + (i * I2 + j) * plane, d[i][j]);
        }
      };
      Index at = 0;
      for (; at + kLanes <= all; at += kLanes) sum(at, [](const Stored* p) { return load(p); });
      if (at < all) sum(at, [&](const Stored* p) { return load_part(p, static_cast<int>(all - at)); });
    }
    return met;
  }

  // Sums of taps for a block of resulting channels: (frequency, contracted channel, lane), `plane` apart.
  template <class Weight>
  void sum_taps(const Weight& weight, const Share& share, const Block& b, Real* to, Index plane) const {
    Matrix m[K1][K2];
    for (int i = 0; i < K1; ++i)
      for (int j = 0; j < K2; ++j) {
        const Index tap1 = share.part1->tap[i], tap2 = share.part2->tap[j];
        m[i][j] = weight(share.tap, std::max<Index>(tap1, 0), std::max<Index>(tap2, 0), b.group, b.first);
        if (tap1 < 0 || tap2 < 0) m[i][j].at = nullptr;
      }
    const Index width = b.width, next_in = m[0][0].next_in, next_out = m[0][0].next_out;
    alignas(64) Real buffer[K1][K2][kLanes * kLanes];
    for (int v = 0; v < width; v += kLanes)
      for (Index first = 0; first < g.in; first += kLanes) {
        const int lanes = std::min(b.valid - v, kLanes), rows = static_cast<int>(std::min<Index>(kLanes, g.in - first));
        const Stored* at[K1][K2];
        for (int i = 0; i < K1; ++i)
          for (int j = 0; j < K2; ++j) {
            at[i][j] = nullptr;
            if (!m[i][j].at) continue;
            at[i][j] = m[i][j].at + first * next_in + v * next_out;
            if (next_out == 1) continue;
            transpose(at[i][j], next_out, lanes, rows, buffer[i][j], kLanes);
            at[i][j] = buffer[i][j];
          }
        const Index next = next_out == 1 ? next_in : kLanes;
        const bool whole = next_out != 1 || lanes == kLanes;
        for (int row = 0; row < rows; ++row) {
          const bool ahead = next_out == 1 && first + row + kAhead < g.in;
          Vec half[I1][K2];
#pragma GCC unroll 3
          for (int k = 0; k < K2; ++k) {
            Vec tap[K1];
#pragma GCC unroll 3
            for (int j = 0; j < K1; ++j) {
              tap[j] = Vec{};
              if (!at[j][k]) continue;
              const Stored* from = at[j][k] + row * next;
              tap[j] = whole ? load(from) : load_part(from, lanes);
              if (ahead) __builtin_prefetch(from + kAhead * next);
            }
            First::taps(tap, 1, &half[0][k], K2);
          }
          Real* const here = to + (first + row) * width + v;
#pragma GCC unroll 4
          for (int f = 0; f < I1; ++f) {
            Vec all[I2];
            Second::taps(half[f], 1, all, 1);
#pragma GCC unroll 4
            for (int k = 0; k < I2; ++k) store(here + (f * I2 + k) * plane, all[k]);
          }
        }
      }
  }

  // Writes a block's results from its products, (frequency, tile, lane). Returns zeros, if all are finite.
  Vec finish(const Spot* spots, Index count, const Block& b, const Real* from, Index plane) const {
    const Index apart1 = t1.apart < t1.count ? t1.apart * c.axis[1].stride * g.result_size[2] * total : 0;
    const Index apart2 = t2.apart < t2.count ? t2.apart * c.axis[2].stride * total : 0;
    Stored* const result = g.result + b.group * g.out + b.first;
    const int width = b.width, valid = b.valid;
    Vec check{};
    for (const Spot* s = spots; s < spots + count; ++s)
      for (int v = 0; v < width; v += kLanes, from += kLanes) {
        Vec m[I1][I2], half[R1][I2], y[R1][R2], sum{};
#pragma GCC unroll 4
        for (int i = 0; i < I1; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < I2; ++j) m[i][j] = load(from + (i * I2 + j) * plane);
        }
#pragma GCC unroll 4
        for (int j = 0; j < I2; ++j) First::results(&m[0][j], I2, &half[0][j], I2);
#pragma GCC unroll 4
        for (int i = 0; i < R1; ++i) Second::results(half[i], 1, y[i], 1);
        const bool whole = valid - v >= kLanes && s->real1 == R1 && s->real2 == R2;
        const int some = std::min(valid - v, kLanes);
        Stored* const to = result + s->result + v;
#pragma GCC unroll 2
        for (int i = 0; i < R1; ++i) {
#pragma GCC unroll 2
          for (int j = 0; j < R2; ++j) {
            Stored* at = to + i * apart1 + j * apart2;
            if (whole) {
              store(at, y[i][j]);
            } else if (i < s->real1 && j < s->real2) {
              store_part(at, y[i][j], some);
            }
            sum += y[i][j];
          }
        }
        check += sum * Real(0);
      }
    return check;
  }

  // What follows the convolution, done to the results of some tiles.
  void follow(const Spot* spots, Index count, const Block& b) const {
    const Index apart1 = t1.apart < t1.count ? t1.apart * c.axis[1].stride * g.result_size[2] * total : 0;
    const Index apart2 = t2.apart < t2.count ? t2.apart * c.axis[2].stride * total : 0;
    const Index channel = b.group * g.out + b.first;
    for (const Spot* s = spots; s < spots + count; ++s) {
      Stored* results[4];
      Index there = 0;
      for (int i = 0; i < s->real1; ++i)
        for (int j = 0; j < s->real2; ++j) results[there++] = g.result + s->result + i * apart1 + j * apart2 + channel;
      g.after->finish_rows(results, there, channel, b.valid);
    }
  }
};

// to[p] = sum of row[p][i] * w[i] over `depth` times `in` numbers, for P rows `pitch` apart and V vectors of lanes.
template <int P, int V>
void multiply_rows(const Real* rows, Index pitch, Index next_tap, const std::vector<char>& met, Index in, const Real* w,
                   Real* to) {
  Vec sum[P][V];
  clear(sum);
  for (char some : met) {
    const Real* row[P];
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) row[p] = rows + p * pitch;
    if (some) multiply(sum, w, in, [&](int p, Index i) { return row[p][i]; });
    rows += next_tap;
    w += in * V * kLanes;
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(to + (p * V + v) * kLanes, sum[p][v]);
  }
}
using MultiplyRows = void (*)(const Real*, Index, Index, const std::vector<char>&, Index, const Real*, Real*);
template <int V, int... P>
constexpr std::array<MultiplyRows, sizeof...(P)> all_multiply_rows(std::integer_sequence<int, P...>) {
  return {multiply_rows<P + 1, V>...};
}
constexpr auto kMultiply2 = all_multiply_rows<2>(std::make_integer_sequence<int, kRows>{});
constexpr auto kMultiply1 = all_multiply_rows<1>(std::make_integer_sequence<int, kThinRows>{});

// One class by minimal filtering. Returns whether all results are finite; where they are not, they are not to be used.
template <int K1, int K2, class Weight>
bool winograd(const Gather& g, const Class& c, const Tiles& t1, const Tiles& t2, const Pool& pool, Weight weight) {
  const Filter<K1, K2> filter{g, c, t1, t2};
  constexpr int F = Filter<K1, K2>::F;
  const std::vector<Share> shares = filter.shares();
  const Index depth = shares.size(), tiles = filter.tiles;
  const Index team = team_of(g), teams = (g.groups + team - 1) / team;
  // From one frequency's sums of taps to the next. A line is added: all would otherwise compete for one set of a cache.
  auto plane_of = [&](const Block& b) { return depth * g.in * b.width + kSkew; };
  Index size = 0;
  std::vector<Block> blocks = blocks_of(g, Form::wide, 0, size);
  for (Block& b : blocks) {
    b.weights = size;
    size += F * plane_of(b);
  }
  // An odd number of cache lines between pixels: with an even one they would compete for the same sets.
  const Index pitch = up(team * g.in, 32) + kSkew;
  const Index fit = kTransformed / static_cast<Index>(sizeof(Real) * F * (depth * pitch + kWide));
  // Few tiles: every task passes over all of them, and sums the taps of its blocks itself, in a cache.
  const bool once = tiles <= kOneTask;
  const Index most = once ? tiles : std::clamp<Index>(fit / kRows * kRows, kLeastTiles, 16 * kRows);
  const Index threads = pool.threads, of_group = blocks.size() / g.groups, least = (tiles + most - 1) / most;
  const Index wanted = once ? 1 : up(least, threads), chunk = (tiles + wanted - 1) / wanted;
  const Index chunks = (tiles + chunk - 1) / chunk;
  // Few chunks: the resulting channels are shared out as well.
  const Index most_parts = threads == 1 || g.groups > 1 ? 1 : std::max<Index>(1, of_group / 2);
  const Index parts = std::clamp<Index>((4 * threads + chunks - 1) / chunks, 1, most_parts);
  auto sum_taps = [&](const Block& b, Index t, Real* to) {
    filter.sum_taps(weight, shares[t], b, to + t * g.in * b.width, plane_of(b));
  };
  const Scratch<Real> weights(once ? 0 : size);
  if (!once) {
    const Index all = static_cast<Index>(blocks.size()) * depth, some = std::max<Index>(1, kLittle * all / size);
    pool.run((all + some - 1) / some, [&](Index task) {
      for (Index k = task * some; k < std::min(all, (task + 1) * some); ++k) {
        const Block& b = blocks[k / depth];
        sum_taps(b, k % depth, weights.get() + b.weights);
      }
    });
  }
  const std::vector<Stored> zeros(team * g.in + kWide, Stored{0});
  std::atomic<bool> finite{true};
  pool.run(chunks * teams * parts, [&](Index task) {
    thread_local std::vector<Spot> spots;
    thread_local std::vector<char> met;
    if (!finite.load(std::memory_order_relaxed)) return;
    const Index first = task / parts / teams * chunk, count = std::min(chunk, tiles - first), part = task % parts;
    const Index from = task / parts % teams * team, blocks_from = from * of_group;
    const Team groups{from, std::min(team, g.groups - from)};
    const Index all_blocks = groups.groups * of_group, plane = depth * chunk * pitch + kSkew,
                result_plane = chunk * kWide + kSkew;
    const Scratch<Real> memory(F * (plane + result_plane)), own(once ? F * plane_of(blocks[0]) : 0);
    met.resize(depth);
    Real* const data = memory.get();
    Real* const sums = data + F * plane;
    filter.place(first, count, spots);
    for (Index t = 0; t < depth; ++t)
      met[t] = filter.sum_pixels(spots.data(), count, shares[t], groups, zeros.data(), data + t * chunk * pitch, plane,
                                 pitch);
    Vec check{};
    for (Index k = part * all_blocks / parts; k < (part + 1) * all_blocks / parts; ++k) {
      const Block& b = blocks[blocks_from + k];
      const MultiplyRows* const multiply = b.width == kWide ? kMultiply2.data() : kMultiply1.data();
      const Index most = b.width == kWide ? kRows : kThinRows;
      const Real* packed = weights.get() + b.weights;
      if (once) {
        for (Index t = 0; t < depth; ++t) sum_taps(b, t, own.get());
        packed = own.get();
      }
      for (int f = 0; f < F; ++f) {
        const Real* w = packed + f * plane_of(b);
        for (Index p = 0; p < count; p += most) {
          const Index rows = std::min(most, count - p);
          const Real* at = data + f * plane + p * pitch + (b.group - from) * g.in;
          multiply[rows - 1](at, pitch, chunk * pitch, met, g.in, w, sums + f * result_plane + p * b.width);
        }
      }
      const Index some = g.after ? kFinished : count;  // of which the results are in a first-level cache
      for (Index k = 0; k < count; k += some) {
        const Index these = std::min(some, count - k);
        check += filter.finish(spots.data() + k, these, b, sums + k * b.width, result_plane);
        if (g.after) filter.follow(spots.data() + k, these, b);
      }
    }
    if (!zeros_only(check)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace
}  // namespace jaxconv
