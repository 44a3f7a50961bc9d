// The three faces, compiled once for each instruction set (JAXCONV_ISA names it) and number format (JAXCONV_REAL, and
// JAXCONV_STORED where another one lies in memory).
#include <optional>

#include "depthwise.h"
#include "depthwise_pairing.h"
#include "matrix_gather.h"
#include "matrix_pairing.h"
#include "pairing.h"
// Minimal filtering rounds otherwise than plain sums do: it is for float only, as double is asked for its bits and half
// precision has products of its own.
#if JAXCONV_IS(JAXCONV_REAL) && !defined(JAXCONV_STORED)
#define JAXCONV_FILTERS
#include "winograd_pairing.h"
#endif

namespace jaxconv {
namespace {

// An operand of at most this many numbers is copied, a larger one is read in pieces: what a second-level cache holds.
#ifndef JAXCONV_COPIED
#define JAXCONV_COPIED 65536
#endif
constexpr Index kCopied = JAXCONV_COPIED;

// Adding up the lanes costs instructions of its own: as many as so many products.
constexpr Index kLong = 6;

// Where a larger share of the taps meets the operand, or parts would be more or shorter, or there is less to multiply,
// an axis is not split.
constexpr double kMeets = 0.92, kMuch = 1 << 20;
constexpr Index kParts = 5, kPart = 2;

// `taps` meet a result position; a number of the operand is used `uses` times.
Form form_of(const Problem& p, Index in, Index out, Index taps, Index uses) {
  if (narrow(p.groups, in, out, uses) || sharing(p.groups, in, out)) return Form::narrow;
  const bool few = out <= kFew && 2 * out <= kLanes;
  return few && in * taps > out * (taps * (up(in, kLanes) / kLanes) + kLong) ? Form::few : Form::wide;
}

// A copy of `from` (lines x size x pixel) with zeros before and after each line.
std::unique_ptr<Scratch<Stored>> padded(const Stored* from, Index lines, Index size, Index low, Index high, Index pixel,
                                const Pool& pool) {
  const Index line = (low + size + high) * pixel;
  auto to = std::make_unique<Scratch<Stored>>(lines * line);
  const Index some = std::max<Index>(1, 65536 / std::max<Index>(line, 1));
  pool.run((lines + some - 1) / some, [&](Index task) {
    for (Index k = task * some; k < std::min(lines, (task + 1) * some); ++k) {
      Stored* at = to->get() + k * line;
      std::memset(at, 0, sizeof(Stored) * low * pixel);
      std::memcpy(at + low * pixel, from + k * size * pixel, sizeof(Stored) * size * pixel);
      std::memset(at + (low + size) * pixel, 0, sizeof(Stored) * high * pixel);
    }
  });
  return to;
}

// A run of positions of the last axis that leave out the first `skip` of the merged taps and use the next `taps`.
struct Piece {
  Axis axis;
  Index skip, taps;
};

// Taps of the last axis that are merged into one: the index of the first in the kernel, and the distance to the next.
struct TapRun {
  Index first, next, taps;
};

// Positions of an axis that meet the same taps are an axis of their own where many positions lack some: a tile that
// holds others computes with zeros.
void split(std::array<std::vector<Axis>, 3>& axes, const Gather& g) {
  double products = 1.0 * g.batch * g.groups * g.in * g.out;
  for (const auto& some : axes) products *= static_cast<double>(some[0].count) * some.size() * some[0].tap.size();
  if (products < kMuch) return;
  for (int a = 0; a < 3; ++a) {
    std::vector<Axis> parts;
    for (const Axis& axis : axes[a]) {
      const std::vector<Index> cuts = cuts_of(axis, g.data_size[a]);
      const double met = meetings(axis, g.data_size[a]), all = static_cast<double>(axis.count) * axis.tap.size();
      const Index some = cuts.size() - 1;
      if (met > kMeets * all || some > kParts || axis.count < kPart * some) {
        parts.push_back(axis);
        continue;
      }
      for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
        Axis part{cuts[k + 1] - cuts[k], axis.first + axis.stride * cuts[k], axis.stride, axis.step, {}, {}};
        for (std::size_t t = 0; t < axis.tap.size(); ++t) {
          const Index at = axis.step * cuts[k] + axis.offset[t];
          if (at < 0 || at >= g.data_size[a]) continue;
          part.tap.push_back(axis.tap[t]);
          part.offset.push_back(at);
        }
        parts.push_back(part);
      }
    }
    axes[a] = parts;
  }
}

struct Plan {
  Gather g;
  std::vector<Class> classes;
  std::unique_ptr<Scratch<Stored>> copy;
  std::vector<TapRun> runs;  // what a packed tap of the last axis holds
  std::optional<After> after;

  void follow_with(const Epilogue<Stored>* e) {
    if (e) g.after = &after.emplace(*e, g.result, g.groups * g.out);
  }
};

// Merges the taps of the last axis into one where the contracted channels are few and the operand positions of
// consecutive taps are consecutive: they are one run of memory. A small operand is copied with zeros around its lines;
// of a large one the positions that lack some of the taps become pieces of their own.
std::vector<Piece> merge(Plan& plan, const Problem& p, std::vector<Axis>& last, const Pool& pool) {
  Gather& g = plan.g;
  std::size_t most = 0;
  for (const Axis& axis : last) most = std::max(most, axis.tap.size());
  if (g.groups > 1 || g.in >= kThin || p.dilation[2] != 1 || most < 2) return {};
  Index low = 0, high = g.data_size[2];
  for (Axis& axis : last) {
    if (axis.tap.empty()) continue;
    if (axis.offset.front() > axis.offset.back()) {
      std::reverse(axis.offset.begin(), axis.offset.end());
      std::reverse(axis.tap.begin(), axis.tap.end());
    }
    low = std::min(low, axis.offset.front());
    high = std::max(high, axis.step * (axis.count - 1) + axis.offset.back() + 1);
  }
  const Index lines = g.batch * g.data_size[0] * g.data_size[1];
  const bool overhangs = low < 0 || high > g.data_size[2];
  // No merging where the kernel is larger than the operand: each piece would pack its own part of the kernel. Nor where
  // the steps are long: most of a copy would never be read.
  const bool small = lines * g.data_size[2] * g.pixel <= std::max(kCopied, p.taps() * p.in * p.out);
  const bool near = high - low <= std::max<Index>(4 * g.data_size[2], 4096);  // pads can be longer than any operand
  if (overhangs && small && near && last[0].step < 2 * static_cast<Index>(most)) {
    plan.copy = padded(g.data, lines, g.data_size[2], -low, high - g.data_size[2], g.pixel, pool);
    g.data = plan.copy->get();
    g.data_size[2] = high - low;
    for (Axis& axis : last)
      for (Index& offset : axis.offset) offset -= low;
  }
  std::vector<Piece> pieces;
  for (const Axis& axis : last) {
    const Index taps = axis.tap.size(), run = plan.runs.size();
    plan.runs.push_back({taps > 0 ? axis.tap[0] : 0, taps > 1 ? axis.tap[1] - axis.tap[0] : 0, taps});
    const std::vector<Index> cuts = cuts_of(axis, g.data_size[2]);
    for (std::size_t k = 0; k + 1 < cuts.size(); ++k) {
      const Index j = cuts[k], count = cuts[k + 1] - j;
      const Index at = taps > 0 ? axis.step * j + axis.offset[0] : 0;
      const Index skip = std::clamp<Index>(-at, 0, taps), behind = std::clamp<Index>(g.data_size[2] - at, skip, taps);
      Piece piece{{count, axis.first + axis.stride * j, axis.stride, axis.step, {}, {}}, skip, behind - skip};
      if (piece.taps > 0) {
        piece.axis.tap = {run};
        piece.axis.offset = {at + skip};
      }
      pieces.push_back(std::move(piece));
    }
  }
  g.in *= most;
  g.taps = p.kernel[0] * p.kernel[1] * static_cast<Index>(last.size());
  return pieces;
}

// Writes each contracted channel as a plane of lanes. Depthwise kernels and operands are already laid out so.
void gather_narrow(const Plan& plan, const Problem& p, const Stored* w, bool transposed, const Pool& pool) {
  const Gather& g = plan.g;
  const Index share = sharing(g.groups, g.in, g.out), lanes = g.groups * g.out, total = p.groups * p.out;
  const Index width = share ? lanes : plane_width(g.groups, g.out);
  const bool planes = g.in > 1 || g.out > 1;
  std::unique_ptr<Scratch<Stored>> data, weights;
  Planes to{g.data, w, g.in, width, lanes, share ? g.pixel : g.in * width, g.out, share, g.after};
  if (!share && (planes || width > lanes)) {
    data = spread(g.data, g.batch * g.data_size[0] * g.data_size[1] * g.data_size[2], g.groups, g.in, g.out, pool);
    to.data = data->get();
  }
  if ((transposed && planes) || width > lanes) {
    weights = std::make_unique<Scratch<Stored>>(p.taps() * g.in * width);
    to.w = weights->get();
    Stored* at = weights->get();
    for (Index t = 0; t < p.taps(); ++t)
      for (Index i = 0; i < g.in; ++i)
        for (Index lane = 0; lane < width; ++lane) {
          const Index group = lane / g.out, o = lane % g.out;
          const Index column = transposed ? group * p.out + i : lane;
          *at++ = lane < lanes ? w[(t * p.in + (transposed ? o : i)) * total + column] : Stored{0};
        }
  }
  gather_planes(g, plan.classes, to, p.kernel, pool);
}

// What result positions of apply meet.
std::array<Axis, 3> axes_of(const Problem& p) {
  std::array<Axis, 3> axes;
  for (int a = 0; a < 3; ++a) {
    axes[a] = {p.output[a], 0, 1, p.stride[a], {}, {}};
    for (Index t = 0; t < p.kernel[a]; ++t) {
      axes[a].tap.push_back(t);
      axes[a].offset.push_back(p.dilation[a] * t - p.low[a]);
    }
  }
  return axes;
}

// The matrix of a tap of the kernel, or of `taps` taps that are `next` apart, as `apply` or the adjoint contracts it.
Matrix matrix_of(const Problem& p, const Stored* w, bool transposed, Index group, Index first, Index tap, Index next = 0,
                 Index taps = 1) {
  const Index total = p.groups * p.out, matrix = p.in * total;
  const Stored* at = w + tap * matrix + group * p.out;
  if (transposed) return {at + first * total, 1, total, p.out, next * matrix, taps};
  return {at + first, total, 1, p.in, next * matrix, taps};
}

#if defined(JAXCONV_FILTERS)
// Calls `filter` with the taps of two axes as constants, 1 to 3 and 2 or 3.
template <class Call>
bool with_taps(int k1, int k2, const Call& filter) {
  auto with = [&](auto first) {
    return k2 == 2 ? filter(first, std::integral_constant<int, 2>{}) : filter(first, std::integral_constant<int, 3>{});
  };
  if (k1 == 1) return with(std::integral_constant<int, 1>{});
  return k1 == 2 ? with(std::integral_constant<int, 2>{}) : with(std::integral_constant<int, 3>{});
}

// All classes by minimal filtering, where that is faster and all results are finite.
bool filtered(const Gather& g, const Problem& p, const std::array<std::vector<Axis>, 3>& axes, const Stored* w,
              bool transposed, const Pool& pool) {
  if (p.plain) return false;
  std::vector<std::vector<Tiles>> tiles(2);
  for (int a = 0; a < 2; ++a)
    for (const Axis& axis : axes[a + 1]) tiles[a].emplace_back(axis);
  struct Part {
    Class c;
    const Tiles &t1, &t2;
  };
  std::vector<Part> parts;
  for (const Axis& a : axes[0])
    for (std::size_t i = 0; i < axes[1].size(); ++i)
      for (std::size_t j = 0; j < axes[2].size(); ++j) {
        parts.push_back({{{a, axes[1][i], axes[2][j]}, {}, 0, g.in}, tiles[0][i], tiles[1][j]});
        const Part& part = parts.back();
        if (!worth(g, part.c, part.t1, part.t2, g.in * (up(g.out, kLanes) / kLanes), true)) return false;
      }
  auto weight = [&](Index i, Index j, Index k, Index group, Index first) {
    return matrix_of(p, w, transposed, group, first, (i * p.kernel[1] + j) * p.kernel[2] + k);
  };
  for (const Part& part : parts) {
    const bool finite = with_taps(part.t1.taps, part.t2.taps, [&](auto k1, auto k2) {
      return winograd<k1, k2>(g, part.c, part.t1, part.t2, pool, weight);
    });
    if (!finite) return false;
  }
  return true;
}

// The same for the kernel face.
bool filtered_pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  const Class c{axes_of(p), {}, 0, p.in};
  const Tiles t1(c.axis[1]), t2(c.axis[2]);
  const Gather g{x, nullptr, p.batch, p.input, p.output, p.groups * p.in, p.groups, p.in, p.out, p.taps()};
  // Lanes go along either side's channels.
  const Index vectors = std::min(p.in * (up(p.out, kLanes) / kLanes), p.out * (up(p.in, kLanes) / kLanes));
  if (p.plain || !worth(g, c, t1, t2, vectors, false)) return false;
  return with_taps(t1.taps, t2.taps, [&](auto k1, auto k2) {
    return winograd_pairing<k1, k2>(p, g, c, t1, t2, y, w, pool);
  });
}
#endif

void run(Plan& plan, const Problem& p, std::array<std::vector<Axis>, 3>& axes, const Stored* w, bool transposed,
         const Pool& pool) {
  const Gather& g = plan.g;
  const Index contracted = g.in;
  auto volume = [](const std::array<Index, 3>& size) { return size[0] * size[1] * size[2]; };
  Index met = 1;  // taps of a class
  for (const auto& axis : axes) met *= axis[0].tap.size();
  const Index uses = volume(p.output) * p.taps() / std::max<Index>(1, volume(g.data_size));
  const Form form = form_of(p, g.in, g.out, met, uses);
#if defined(JAXCONV_FILTERS)
  if (form == Form::wide && filtered(plan.g, p, axes, w, transposed, pool)) return;
#endif
#if defined(JAXCONV_MATRIX)
  if (form == Form::wide && has_matrix_unit()) {
    auto parts = axes;
    split(parts, g);
    auto weight = [&](Index t, Index group, Index first) { return matrix_of(p, w, transposed, group, first, t); };
    if (matrix_gather(g, parts, p.kernel, pool, weight)) return;
  }
#endif
  std::vector<Piece> pieces;
  if (form != Form::narrow) pieces = merge(plan, p, axes[2], pool);
  if (form != Form::narrow && pieces.empty()) split(axes, g);
  if (pieces.empty()) {
    for (const Axis& axis : axes[2]) pieces.push_back({axis, 0, 1});
    for (Index t = 0; t < p.kernel[2]; ++t) plan.runs.push_back({t, 0, 1});
  }
  const Index last = plan.runs.size();
  for (const Axis& a : axes[0])
    for (const Axis& b : axes[1])
      for (const Piece& c : pieces) {
        Class one{{a, b, c.axis}, {}, c.skip * contracted, c.taps * contracted};
        for (Index i : a.tap)
          for (Index j : b.tap)
            for (Index k : c.axis.tap) one.taps.push_back((i * p.kernel[1] + j) * last + k);
        plan.classes.push_back(std::move(one));
      }
  if (form == Form::narrow) {
    gather_narrow(plan, p, w, transposed, pool);
    return;
  }
  gather(plan.g, plan.classes, form, pool, [&](Index t, Index group, Index first) {
    const TapRun& run = plan.runs[t % last];
    return matrix_of(p, w, transposed, group, first, t / last * p.kernel[2] + run.first, run.next, run.taps);
  });
}

void apply(const Problem& p, const Stored* x, const Stored* w, Stored* y, const Pool& pool, const Epilogue<Stored>* e) {
  const auto all = axes_of(p);
  std::array<std::vector<Axis>, 3> axes{{{all[0]}, {all[1]}, {all[2]}}};
  Plan plan;
  plan.g = {x, y, p.batch, p.input, p.output, p.groups * p.in, p.groups, p.in, p.out, p.taps()};
  plan.follow_with(e);
  run(plan, p, axes, w, false, pool);
}

void adjoint(const Problem& p, const Stored* y, const Stored* w, Stored* x, const Pool& pool,
             const Epilogue<Stored>* e) {
  std::array<std::vector<Axis>, 3> axes;  // one for each residue of the input's positions modulo the stride
  for (int a = 0; a < 3; ++a) {
    const Index s = p.stride[a];
    for (Index r = 0; r < std::min(s, p.input[a]); ++r) {
      Axis axis{(p.input[a] - r + s - 1) / s, r, s, 1, {}, {}};
      for (Index t = 0; t < p.kernel[a]; ++t) {
        const Index distance = r + p.low[a] - p.dilation[a] * t;  // s times the operand position of j = 0
        if (distance % s != 0) continue;
        axis.tap.push_back(t);
        axis.offset.push_back(distance / s);
      }
      axes[a].push_back(axis);
    }
  }
  Plan plan;
  plan.g = {y, x, p.batch, p.output, p.input, p.groups * p.out, p.groups, p.out, p.in, p.taps()};
  plan.follow_with(e);
  run(plan, p, axes, w, true, pool);
}

void pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  auto volume = [](const std::array<Index, 3>& size) { return size[0] * size[1] * size[2]; };
  const Index positions = std::max<Index>(1, std::min(volume(p.input), volume(p.output)));
  const Index uses = volume(p.output) * p.taps() / positions;
#if defined(JAXCONV_FILTERS)
  if (filtered_pairing(p, x, y, w, pool)) return;
#endif
#if defined(JAXCONV_MATRIX)
  if (matrix_pairing(p, x, y, w, pool)) return;
#endif
#if defined(JAXCONV_PERMUTES)
  if (sharing_pairing(p.groups, p.in, p.out, uses)) return shared_pairing(p, x, y, w, pool);
#endif
  (narrow_pairing(p.groups, p.in, p.out, uses) ? depthwise_pairing : dense_pairing)(p, x, y, w, pool);
}

}  // namespace

#define JAXCONV_JOIN2(a, b) a##b
#define JAXCONV_JOIN(a, b) JAXCONV_JOIN2(a, b)
#if defined(JAXCONV_PAIRS)
// Whether these kernels use the processor's matrix unit.
bool has_matrix_kernels() {
#if defined(JAXCONV_MATRIX)
  return has_matrix_unit();
#else
  return false;
#endif
}
#endif
template <class T>
const Kernels<T>& JAXCONV_JOIN(kernels_, JAXCONV_ISA)();
template <>
const Kernels<Stored>& JAXCONV_JOIN(kernels_, JAXCONV_ISA)<Stored>() {
  static const Kernels<Stored> kernels{apply, adjoint, pairing};
  return kernels;
}

}  // namespace jaxconv
