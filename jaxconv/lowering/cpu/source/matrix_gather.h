// apply and adjoint by the matrix unit. It takes rows that lie at one distance from each other: the operand is copied with
// zeros around it and behind the channels of a group, unless all that is read is there. For every tap neighbouring
// positions of a class are such rows then, and all taps are added up in the tiles.
#pragma once
#include "gather.h"
#include "matrix.h"

#if defined(JAXCONV_MATRIX)
namespace jaxconv {
namespace {

// Products, and contracted channels of a group, from which the unit is worth its copies.
#ifndef JAXCONV_MATRIX_LEAST
#define JAXCONV_MATRIX_LEAST 65536
#endif
constexpr double kMatrixLeast = JAXCONV_MATRIX_LEAST;
constexpr Index kMatrixIn = 16;
constexpr double kMatrixCopy = 6;    // the copy's size in operands, at most
constexpr Index kMatrixStep = 256;   // the longest step from row to row
constexpr Index kMatrixChunk = 256;  // rows of a task

// A class's positions as strips of rows: its lines, or, where lines go on at the same distance, its planes, whose rows
// then have `pitch` - `count` others between two lines.
struct Strips {
  Index lines, rows, count, pitch;  // strips of a plane, rows of a strip, and the positions of a line
  Strips(const Axis& b, const Axis& c, Index line) : lines(b.count), rows(c.count), count(c.count), pitch(c.count) {
    const Index all = (lines - 1) * line + count;
    if (b.step == 1 && c.step == 1 && count <= line && up(all, kSide) < lines * up(count, kSide))
      lines = 1, rows = all, pitch = line;
  }
};

// The operand as it is read: positions low, low + 1, ... of each axis.
struct Surrounded {
  std::array<Index, 3> low{}, size{};
  Index channels, pixel;  // of a group, whole runs; and from one position to the next
  bool copied;

  // Whether there is such an operand of a sensible size for the classes that the axes make.
  bool plan(const Gather& g, const std::array<std::vector<Axis>, 3>& axes) {
    channels = up(g.in, kDepth);
    pixel = g.groups * channels;
    copied = channels != g.in;
    double all = static_cast<double>(channels) / g.in;
    for (int a = 0; a < 3; ++a) {
      Index first = g.data_size[a], last = -1;
      for (const Axis& axis : axes[a]) {
        for (Index offset : axis.offset) {
          first = std::min(first, offset);
          last = std::max(last, axis.step * (axis.count - 1) + offset);
        }
      }
      if (last < first) first = 0, last = 0;  // no taps at all
      copied |= first < 0 || last >= g.data_size[a];
      low[a] = first;
      size[a] = last - first + 1;
      all *= static_cast<double>(size[a]) / g.data_size[a];
    }
    // A tile reads sixteen rows, whether or not there are as many.
    for (const Axis& b : axes[1])
      for (const Axis& c : axes[2]) copied |= Strips(b, c, g.data_size[2]).rows < kSide;
    if (!copied) low = {}, size = g.data_size;
    return !copied || all <= kMatrixCopy;
  }
  Index numbers(const Gather& g) const { return g.batch * size[0] * size[1] * size[2] * pixel; }

  // Lines of the copy, each by a task.
  void copy(const Gather& g, Stored* to, const Pool& pool) const {
    const Index lines = g.batch * size[0] * size[1], line = size[2] * pixel;
    const Index some = std::max<Index>(1, kLittle / line);
    const Index begin = std::clamp<Index>(-low[2], 0, size[2]);
    const Index end = std::clamp<Index>(g.data_size[2] - low[2], begin, size[2]);
    pool.run((lines + some - 1) / some, [&](Index task) {
      for (Index k = task * some; k < std::min(lines, (task + 1) * some); ++k) {
        Stored* at = to + k * line;
        const Index u1 = k % size[1] + low[1], u0 = k / size[1] % size[0] + low[0], n = k / (size[0] * size[1]);
        const bool inside = u0 >= 0 && u0 < g.data_size[0] && u1 >= 0 && u1 < g.data_size[1];
        if (!inside || begin == end) {
          std::memset(at, 0, sizeof(Stored) * line);
          continue;
        }
        std::memset(at, 0, sizeof(Stored) * begin * pixel);
        std::memset(at + end * pixel, 0, sizeof(Stored) * (size[2] - end) * pixel);
        const Index from = ((n * g.data_size[0] + u0) * g.data_size[1] + u1) * g.data_size[2] + low[2] + begin;
        const Stored* x = g.data + from * g.pixel;
        at += begin * pixel;
        if (pixel == g.pixel) {
          std::memcpy(at, x, sizeof(Stored) * (end - begin) * pixel);
          continue;
        }
        for (Index u = begin; u < end; ++u, x += g.pixel - g.groups * g.in) {
          for (Index group = 0; group < g.groups; ++group, x += g.in, at += channels) {
            std::memcpy(at, x, sizeof(Stored) * g.in);
            std::memset(at + g.in, 0, sizeof(Stored) * (channels - g.in));
          }
        }
      }
    });
  }
};

// What a task's squares are given.
struct MatrixTask {
  const Index* tap_at;      // of each tap: where its numbers lie behind a row's
  const Index* tap_weight;  // and its packed matrix
  Index taps, channels, row_step;
};

// Adds all taps up for 16 rows from `first` on and 16 from `second` on.
template <class S>
void add_taps_up(S, const MatrixTask& a, const Stored* first, const Stored* second, const Pair* w, Real* sums) {
  constexpr Index width = S::width;
  const Index row_step = a.row_step * static_cast<Index>(sizeof(Stored));
  S::clear();
  for (Index t = 0; t < a.taps; ++t) {
    const Pair* columns = w + a.tap_weight[t] * (a.channels / 2 * width);
    for (Index i = 0; i < a.channels; i += kDepth, columns += kSide * width)
      S::add(first + a.tap_at[t] + i, second + a.tap_at[t] + i, row_step, columns, width * sizeof(Pair));
  }
  S::store(sums, width);
}

// Half of a square's rows of a strip. A last one begins earlier, over rows that others write, so that it reads no rows
// that are not there.
struct Half {
  Index first, begin, end;  // what is read from, and what is written
  Half(Index begin, Index end, Index rows)
      : first(std::max<Index>(0, std::min(begin, rows - kSide))), begin(begin), end(std::min(begin + kSide, end)) {}
};

// A class with its taps: the numbers of their matrices, and how far their numbers lie from a row's first position.
struct MatrixClass {
  std::array<Axis, 3> axis;
  Strips strips;
  std::vector<Index> taps, at;

  MatrixClass(const Axis& a, const Axis& b, const Axis& c, const Surrounded& around, const std::array<Index, 3>& kernel)
      : axis{a, b, c}, strips(b, c, around.size[2]) {
    for (std::size_t i = 0; i < a.tap.size(); ++i)
      for (std::size_t j = 0; j < b.tap.size(); ++j)
        for (std::size_t k = 0; k < c.tap.size(); ++k) {
          taps.push_back((a.tap[i] * kernel[1] + b.tap[j]) * kernel[2] + c.tap[k]);
          const Index u0 = a.offset[i] - around.low[0], u1 = b.offset[j] - around.low[1],
                      u2 = c.offset[k] - around.low[2];
          at.push_back(((u0 * around.size[1] + u1) * around.size[2] + u2) * around.pixel);
        }
  }
};

// All classes that the axes make; `weight` is the matrix of a kernel's tap. False where the unit is not worth it: nothing
// is written then.
template <class Weight>
bool matrix_gather(const Gather& g, const std::array<std::vector<Axis>, 3>& axes, const std::array<Index, 3>& kernel,
                   const Pool& pool, Weight weight) {
  double products = 1.0 * g.batch * g.groups * g.in * g.out;
  for (const auto& some : axes) {
    double met = 0;
    for (const Axis& axis : some) met += static_cast<double>(axis.count) * axis.tap.size();
    products *= met;
  }
  Index farthest = 1;
  for (const Axis& axis : axes[2]) farthest = std::max(farthest, axis.step);
  Surrounded around;
  if (g.in < kMatrixIn || products < kMatrixLeast || farthest > kMatrixStep || !around.plan(g, axes)) return false;

  // The matrices: pairs of all contracted numbers, and zeros.
  Index size = 0;
  const Index row = around.channels / 2, taps = kernel[0] * kernel[1] * kernel[2];
  const std::vector<Block> blocks = blocks_of(g, Form::wide, row, size);
  const Scratch<Pair> packed(size);
  const Index matrices = static_cast<Index>(blocks.size()) * taps;
  const Index some = std::max<Index>(1, matrices * kLittle / std::max<Index>(size, 1));
  pool.run((matrices + some - 1) / some, [&](Index task) {
    for (Index k = task * some; k < std::min(matrices, (task + 1) * some); ++k) {
      const Block& b = blocks[k / taps];
      const Index t = k % taps, used = (g.in + 1) / 2 * b.width;
      Pair* to = packed.get() + b.weights + t * row * b.width;
      pack_pairs(weight(t, b.group, b.first), b.valid, b.width, to);
      std::fill(to + used, to + row * b.width, Pair{0});
    }
  });
  // Behind the last position there is room for the rows that a short strip has not.
  const Scratch<Stored> copy(around.copied ? around.numbers(g) + kSide * farthest * around.pixel : 0);
  if (around.copied) around.copy(g, copy.get(), pool);
  const Stored* const data = around.copied ? copy.get() : g.data;

  std::vector<MatrixClass> classes;
  double rows = 0;
  for (const Axis& a : axes[0])
    for (const Axis& b : axes[1])
      for (const Axis& c : axes[2]) {
        classes.emplace_back(a, b, c, around, kernel);
        rows += static_cast<double>(g.batch) * a.count * classes.back().strips.lines * classes.back().strips.rows;
      }
  // Few rows: the channels are shared out as well.
  const Index all = blocks.size();
  const Index parts = std::clamp<Index>(static_cast<Index>(16 * pool.threads * kMatrixChunk / rows), 1, all);
  struct Task {
    const MatrixClass* c;
    Index plane, strip, strips, begin, end, block, stop;
  };
  std::vector<Task> tasks;
  for (const MatrixClass& c : classes) {
    const Index together = std::max<Index>(1, kMatrixChunk / c.strips.rows);
    for (Index plane = 0; plane < g.batch * c.axis[0].count; ++plane)
      for (Index strip = 0; strip < c.strips.lines; strip += together)
        for (Index begin = 0; begin < c.strips.rows; begin += kMatrixChunk)
          for (Index part = 0; part < parts; ++part)
            tasks.push_back({&c, plane, strip, std::min(together, c.strips.lines - strip), begin,
                             std::min(begin + kMatrixChunk, c.strips.rows), part * all / parts,
                             (part + 1) * all / parts});
  }
  pool.run(static_cast<Index>(tasks.size()), [&](Index number) {
    const Task& task = tasks[number];
    const auto& [axis, strips, tap_weight, tap_at] = *task.c;
    const MatrixTask a{tap_at.data(), tap_weight.data(), static_cast<Index>(tap_at.size()), around.channels,
                       axis[2].step * around.pixel};
    const Index n = task.plane / axis[0].count, j0 = task.plane % axis[0].count, total = g.groups * g.out;
    const Index from_plane = n * around.size[0] + axis[0].step * j0;
    const Index to_plane = n * g.result_size[0] + axis[0].first + axis[0].stride * j0;
    alignas(64) Real sums[kSquare * kSquare];
    auto write = [&](const Block& b, const Half& h, Index strip, const Real* sum) {
      Index j1 = strip + h.begin / strips.pitch, j2 = h.begin % strips.pitch;
      for (Index r = h.begin; r < h.end; ++r, sum += b.width) {
        if (j2 < strips.count) {
          const Index line = to_plane * g.result_size[1] + axis[1].first + axis[1].stride * j1;
          const Index where = line * g.result_size[2] + axis[2].first + axis[2].stride * j2;
          Stored* to = g.result + where * total + b.group * g.out + b.first;
          if (g.after) {
            g.after->write(sum, b.width / kLanes, &to, 1, b.group * g.out + b.first, b.valid);
          } else {
            store_part(to, load(sum), std::min(b.valid, kLanes));
            if (b.valid > kLanes) store_part(to + kLanes, load(sum + kLanes), b.valid - kLanes);
          }
        }
        if (++j2 == strips.pitch) j2 = 0, ++j1;
      }
    };
    MatrixUnit unit;
    for (Index k = task.block; k < task.stop; ++k) {
      const Block& b = blocks[k];
      const bool wide = b.width == kWide;
      for (Index strip = task.strip; strip < task.strip + task.strips; ++strip) {
        const Index line = from_plane * around.size[1] + axis[1].step * strip;
        const Stored* from = data + line * around.size[2] * around.pixel + b.group * around.channels;
        for (Index r = task.begin; r < task.end; r += kSquare) {
          const Half first(r, task.end, strips.rows), second(r + kSide, task.end, strips.rows);
          const bool two = second.begin < second.end;
          const Stored *one = from + first.first * a.row_step, *other = from + second.first * a.row_step;
          with_square(two, wide, [&](auto s) { add_taps_up(s, a, one, other, packed.get() + b.weights, sums); });
          write(b, first, strip, sums + (first.begin - first.first) * b.width);
          if (two) write(b, second, strip, sums + (kSide + second.begin - second.first) * b.width);
        }
      }
    }
  });
  return true;
}

}  // namespace
}  // namespace jaxconv
#endif
