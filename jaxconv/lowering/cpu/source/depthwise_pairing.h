// The kernel face where groups have few channels: w[t][plane][lane] = sum of x[plane][lane], shifted to tap t, times
// y[lane]. Lanes are the channels of one side, and the other side has a plane for each of its channels.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "planes.h"
#include "shared.h"
#include "sums.h"

namespace jaxconv {
namespace {

// Distance from the line being read to the next one, which is prefetched because main memory is slow; 0 where another
// pass prefetches it.
struct Ahead {
  Index a, b;
};

// sum[t][lane] += a[lane] shifted by tap t * b[lane], for T taps at once.
template <int T, int V>
void multiply(const Stored* a, Index a_step, Index tap_step, const Stored* b, Index b_step, Index count, Real* to,
              Index to_step, Ahead ahead) {
  Vec sum[T][V];
  clear(sum);
  for (Index k = 0; k < count; ++k, a += a_step, b += b_step) {
    if (ahead.a) __builtin_prefetch(a + ahead.a);
    if (ahead.b) __builtin_prefetch(b + ahead.b);
    Vec value[V];
    load_lanes<V>(b, value);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      Vec shifted[V];
      load_lanes<V>(a + t * tap_step, shifted);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[t][v] += value[v] * shifted[v];
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Real* at = to + t * to_step + v * kLanes;
      store(at, load(at) + sum[t][v]);
    }
  }
}
template <int V>
void multiply_taps(Index taps, const Stored* a, Index a_step, Index tap_step, const Stored* b, Index b_step, Index count,
                   Real* to, Index to_step, Ahead ahead) {
  switch (taps) {
    case 1: multiply<1, V>(a, a_step, tap_step, b, b_step, count, to, to_step, ahead); break;
    case 2: multiply<2, V>(a, a_step, tap_step, b, b_step, count, to, to_step, ahead); break;
    case 3: multiply<3, V>(a, a_step, tap_step, b, b_step, count, to, to_step, ahead); break;
    case 4: multiply<4, V>(a, a_step, tap_step, b, b_step, count, to, to_step, ahead); break;
    default: multiply<5, V>(a, a_step, tap_step, b, b_step, count, to, to_step, ahead);
  }
}
constexpr Index kMostTaps = 5;

// What the sums of some lines of y's positions are made of, up to `most` taps of the last axis at a time: visit(what to
// prefetch, parts), where parts(add) calls add(whether it is one tap, pixel of x, pixel of y, first tap, taps, positions)
// for positions that meet all of these taps.
template <class Visit>
void tap_lines(const Problem& p, const Stored* x, Index x_pixel, const Stored* y, Index y_pixel, Index first_line,
               Index last_line, Index most, Visit visit) {
  const Index k2 = p.kernel[2], s2 = p.stride[2];
  std::vector<Reach> last;
  for (Index t = 0; t < k2; ++t) last.push_back(reach(p, 2, t));
  for (Index line = first_line; line < last_line; ++line) {
    const Index q1 = line % p.output[1], q0 = line / p.output[1] % p.output[0], n = line / p.output[1] / p.output[0];
    const Stored* y_line = y + line * p.output[2] * y_pixel;
    for (Index t0 = 0; t0 < p.kernel[0]; ++t0) {
      const Reach r0 = reach(p, 0, t0);
      if (q0 < r0.low || q0 >= r0.high) continue;
      for (Index t1 = 0; t1 < p.kernel[1]; ++t1) {
        const Reach r1 = reach(p, 1, t1);
        if (q1 < r1.low || q1 >= r1.high) continue;
        const Index u0 = p.stride[0] * q0 + r0.shift, u1 = p.stride[1] * q1 + r1.shift;
        const Stored* x_line = x + ((n * p.input[0] + u0) * p.input[1] + u1) * p.input[2] * x_pixel;
        // The next line of y shares lines of x with this one; only the new ones are prefetched. Not with a stride:
        // there every position has a cache line of its own, and prefetching takes longer than waiting.
        const bool met = p.dilation[1] * (p.kernel[1] - 1 - t1) >= p.stride[1];
        const bool last_use = t0 == p.kernel[0] - 1 && t1 == p.kernel[1] - 1;
        const Index first_tap = (t0 * p.kernel[1] + t1) * k2;
        for (Index t = 0; t < k2; t += most) {
          const Index some = std::min(most, k2 - t);
          Index low = 0, high = p.output[2];  // where all of these taps meet x
          for (Index k = t; k < t + some; ++k) {
            low = std::max(low, last[k].low);
            high = std::min(high, last[k].high);
          }
          if (low >= high) low = high = 0;
          Ahead ahead{0, 0};
          if (t == 0 && s2 == 1) {
            ahead = {met ? 0 : p.stride[1] * p.input[2] * x_pixel, last_use ? p.output[2] * y_pixel : 0};
          }
          visit(ahead, [&](auto add) __attribute__((always_inline)) {
            auto part = [&](auto single, Index k, Index taps, Index begin, Index end) __attribute__((always_inline)) {
              if (begin >= end) return;
              add(single, x_line + (s2 * begin + last[k].shift) * x_pixel, y_line + begin * y_pixel, first_tap + k, taps,
                  end - begin);
            };
            part(std::false_type{}, t, some, low, high);
            for (Index k = t; k < t + some; ++k) {
              part(std::true_type{}, k, 1, last[k].low, std::min(low, last[k].high));
              part(std::true_type{}, k, 1, std::max(high, last[k].low), last[k].high);
            }
          });
        }
      }
    }
  }
}

// Divides the lines among threads: add(first line, last line, sums), and adds up the `size` sums of all.
template <class Add>
void split_lines(const Problem& p, Index size, Real* sums, Index splits, const Pool& pool, Add add) {
  const Index lines = p.batch * p.output[0] * p.output[1];
  pool.run(splits, [&](Index split) {
    Real* to = sums + split * size;
    std::memset(to, 0, sizeof(Real) * size);
    add(split * lines / splits, (split + 1) * lines / splits, to);
  });
  add_splits(sums, size, splits, pool);
}
inline Index splits_of(const Problem& p) {  // at least eight lines each
  return splits_of(p.batch * p.output[0] * p.output[1] * p.output[2], 8 * p.output[2], 1);
}

// x has `x_planes` planes and y has `y_planes`, one of them 1. The result is sums of taps x planes x up(width).
inline void lone_pairing(const Problem& p, const Stored* x, Index x_planes, const Stored* y, Index y_planes, Index width,
                         Real* w, const Pool& pool) {
  const Index row = up(width, kLanes), planes = x_planes * y_planes, tap_size = planes * row, size = p.taps() * tap_size;
  const Index x_pixel = x_planes * width, y_pixel = y_planes * width, x_step = p.stride[2] * x_pixel;
  const Index splits = splits_of(p);
  const Scratch<Real> sums(size * splits);
  split_lines(p, size, sums.get(), splits, pool, [&](Index first, Index last, Real* to) {
    auto visit = [&](Ahead ahead, auto parts) {
      const Index tap_step = p.dilation[2] * x_pixel;
      for (Index plane = 0; plane < planes; ++plane) {
        const Index in_x = x_planes > 1 ? plane * width : 0, in_y = y_planes > 1 ? plane * width : 0;
        lane_pieces(width, 2, [&](Index lane, int vectors, Index c) {
          auto run = [&](auto v) {
            parts([&](auto single, const Stored* a, const Stored* b, Index tap, Index taps, Index count)
                      __attribute__((always_inline)) {
              Real* sum = to + tap * tap_size + plane * row + c;
              a += in_x + lane;
              b += in_y + lane;
              if constexpr (single) {
                multiply<1, v>(a, x_step, 0, b, y_pixel, count, sum, tap_size, {0, 0});
              } else {
                multiply_taps<v>(taps, a, x_step, tap_step, b, y_pixel, count, sum, tap_size, ahead);
              }
            });
          };
          if (vectors == 2) {
            run(std::integral_constant<int, 2>{});
          } else {
            run(std::integral_constant<int, 1>{});
          }
        });
      }
    };
    tap_lines(p, x, x_pixel, y, y_pixel, first, last, kMostTaps, visit);
  });
  std::memcpy(w, sums.get(), sizeof(Real) * size);
}

#if defined(JAXCONV_PERMUTES)
// Several groups share a vector.
inline void shared_pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  const Index share = sharing(p.groups, p.in, p.out), x_pixel = p.groups * p.in, y_pixel = p.groups * p.out;
  const Index tap_size = p.in * y_pixel, size = p.taps() * tap_size, splits = splits_of(p);
  const Shared whole(share, p.in, p.out, y_pixel), rest(p.groups % share, p.in, p.out, y_pixel);
  const Scratch<Real> sums(size * splits);
  split_lines(p, size, sums.get(), splits, pool, [&](Index first, Index last, Real* to) {
    auto visit = [&](Ahead, auto parts) {
      for (Index group = 0; group < p.groups; group += share) {
        const Shared& s = group + share <= p.groups ? whole : rest;
        parts([&](auto, const Stored* a, const Stored* b, Index tap, Index taps, Index count) {
          s.multiply(taps, a + group * p.in, p.stride[2] * x_pixel, p.dilation[2] * x_pixel, b + group * p.out, y_pixel, count,
                     to + tap * tap_size + group * p.out, tap_size);
        });
      }
    };
    tap_lines(p, x, x_pixel, y, y_pixel, first, last, kSharedTaps, visit);
  });
  round_run(w, sums.get(), size);
}
#endif

inline void depthwise_pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  auto volume = [](const std::array<Index, 3>& size) { return size[0] * size[1] * size[2]; };
  const Index xs = p.batch * volume(p.input), ys = p.batch * volume(p.output);
  // The side with fewer numbers is repeated along the lanes of the other.
  const bool spread_x = p.in == 1 || (p.out > 1 && xs <= ys);
  const Index in = spread_x ? p.in : p.out, out = spread_x ? p.out : p.in;  // planes, and lanes of a group
  const Index width = plane_width(p.groups, out), row = up(width, kLanes);
  std::unique_ptr<Scratch<Stored>> wide_x, wide_y;
  const bool padded = width > p.groups * out, one = in == 1 && out == 1;
  if (padded || (spread_x && !one)) {
    wide_x = spread_x ? spread(x, xs, p.groups, in, out, pool) : spread(x, xs, p.groups * out, 1, 1, pool);
    x = wide_x->get();
  }
  if (padded || !spread_x) {
    wide_y = spread_x ? spread(y, ys, p.groups * out, 1, 1, pool) : spread(y, ys, p.groups, in, out, pool);
    y = wide_y->get();
  }
  const Scratch<Real> sums(p.taps() * in * row);
  lone_pairing(p, x, spread_x ? in : 1, y, spread_x ? 1 : in, width, sums.get(), pool);
  std::vector<Real> whole(width);
  for (Index t = 0; t < p.taps(); ++t) {
    for (Index i = 0; i < in; ++i) {
      const Real* from = sums.get() + (t * in + i) * row;
      lane_pieces(width, 2, [&](Index lane, int vectors, Index c) {
        if (vectors == 2) {
          in_order(whole.data() + lane, from + c);
        } else {
          std::memcpy(whole.data() + lane, from + c, sizeof(Real) * kLanes);
        }
      });
      if (spread_x) {  // (tap, in, groups x out)
        round_run(w + (t * in + i) * p.groups * out, whole.data(), p.groups * out);
      } else {  // plane i is output channel i of each group, lanes are input channels
        for (Index g = 0; g < p.groups; ++g)
          for (Index o = 0; o < out; ++o) round_to(w[((t * out + o) * p.groups + g) * in + i], whole[g * out + o]);
      }
    }
  }
}

}  // namespace
}  // namespace jaxconv
