// The kernel face by the matrix unit: w[t] is the product of x's channels, shifted to tap t, with y's over all positions.
//
// Positions lie in lines that are longer than y's by what taps reach, so that a tap is one distance among all of them;
// of a strided x each residue modulo the stride lies by itself. A piece of the positions is turned, so that rows are
// channels, and serves all taps from a cache. Zeros stand where a side has no position; where they met what is not finite,
// the face is computed otherwise.
#pragma once
#include <array>
#include <atomic>
#include <limits>
#include <vector>

#include "matrix.h"
#include "sums.h"

#if defined(JAXCONV_MATRIX)
namespace jaxconv {
namespace {

constexpr Index kTurned = 512;        // positions of a piece, at least
constexpr Index kMatrixReach = 4096;  // the longest distance between taps
constexpr double kMatrixGaps = 1.75;  // positions with those between lines, in positions, at most
constexpr Index kMatrixRows = 64;     // channels of x and
constexpr Index kMatrixSums = 65536;  // sums of a slab, at most

// Sixteen channels of 2 * kSide positions to rows of channels.
inline void turn_positions(const Stored* const* at, Index channel, int count, Stored* to, Index step) {
#if defined(JAXCONV_SHUFFLES)
  Vec v[kLanes];
#pragma GCC unroll 16
  for (int k = 0; k < kLanes; ++k) {
    const Bits pair = load_bits(at[2 * k] + channel, count) | load_bits(at[2 * k + 1] + channel, count) << 16;
    v[k] = bits_as<Vec>(pair);
  }
  turn(v);
#pragma GCC unroll 16
  for (int c = 0; c < kLanes; ++c) std::memcpy(to + c * step, &v[c], sizeof(Vec));
#else
  for (int c = 0; c < kLanes; ++c)
    for (int k = 0; k < kDepth; ++k) to[c * step + k] = c < count ? at[k][channel + c] : Stored{0};
#endif
}

struct MatrixPairing {
  const Problem& p;
  // Of each axis: the shift of each tap in positions of y, counted from the least, and its residue; and a line's length.
  std::array<std::vector<Index>, 3> shift, residue;
  std::array<Index, 3> least{}, length{};
  Index reach = 0;  // the longest shift among all positions
  Index all = 0;    // positions of an image with those between lines
  struct Residue {
    std::array<Index, 3> of;
    std::vector<Index> taps, shifts;  // those that meet it
  };
  std::vector<Residue> residues;

  explicit MatrixPairing(const Problem& p) : p(p) {}

  // False where it is not worth it.
  bool plan() {
    double gaps = 1, far = 0, products = 1.0 * p.batch * p.groups * p.in * p.out * p.taps();
    std::array<Index, 3> span{};
    for (int a = 0; a < 3; ++a) {
      Index low = std::numeric_limits<Index>::max(), high = std::numeric_limits<Index>::min();
      for (Index t = 0; t < p.kernel[a]; ++t) {
        const Index u = p.dilation[a] * t - p.low[a], s = p.stride[a], r = (u % s + s) % s;
        shift[a].push_back((u - r) / s);
        residue[a].push_back(r);
        low = std::min(low, shift[a].back());
        high = std::max(high, shift[a].back());
      }
      for (Index& k : shift[a]) k -= low;
      least[a] = low;
      span[a] = high - low;
      length[a] = p.output[a] + (a > 0 ? span[a] : 0);
      gaps *= static_cast<double>(length[a]) / p.output[a];
      far = far * static_cast<double>(length[a]) + static_cast<double>(span[a]);
      products *= static_cast<double>(p.output[a]);
    }
    if (std::min(p.in, p.out) < kMatrixIn || products < kMatrixLeast || gaps > kMatrixGaps || far > kMatrixReach)
      return false;
    reach = static_cast<Index>(far);
    all = ((p.output[0] - 1) * length[1] + p.output[1] - 1) * length[2] + p.output[2];
    for (Index i = 0; i < p.kernel[0]; ++i)
      for (Index j = 0; j < p.kernel[1]; ++j)
        for (Index k = 0; k < p.kernel[2]; ++k) {
          const std::array<Index, 3> of{residue[0][i], residue[1][j], residue[2][k]};
          auto found = std::find_if(residues.begin(), residues.end(), [&](const Residue& r) { return r.of == of; });
          if (found == residues.end()) found = residues.insert(residues.end(), {of, {}, {}});
          found->taps.push_back((i * p.kernel[1] + j) * p.kernel[2] + k);
          found->shifts.push_back((shift[0][i] * length[1] + shift[1][j]) * length[2] + shift[2][k]);
        }
    return true;
  }

  // What positions are read from: they lie at stride * position + offset; none of `lines` or more exist.
  struct Side {
    const Stored* from;
    std::array<Index, 3> size, stride, offset, lines;
    Index pixel;
  };
  // Where positions first, first + 1, ... of image n lie; `none` where they do not exist.
  void point(const Side& side, Index n, Index first, Index count, const Stored* none, const Stored** to) const {
    const auto& [from, size, stride, offset, lines, pixel] = side;
    Index q2 = first % length[2], q1 = first / length[2] % length[1], q0 = first / (length[2] * length[1]);
    for (Index k = 0; k < count;) {
      const Index u0 = stride[0] * q0 + offset[0], u1 = stride[1] * q1 + offset[1];
      const Index some = std::min(count - k, length[2] - q2);
      const bool inside = q0 < lines[0] && q1 < lines[1] && u0 >= 0 && u0 < size[0] && u1 >= 0 && u1 < size[1];
      Index u2 = stride[2] * q2 + offset[2];
      const Index line = inside ? ((n * size[0] + u0) * size[1] + u1) * size[2] : 0;
      for (Index j = 0; j < some; ++j, u2 += stride[2])
        to[k + j] = inside && q2 + j < lines[2] && u2 >= 0 && u2 < size[2] ? from + (line + u2) * pixel : none;
      k += some;
      q2 = 0;
      if (++q1 == length[1]) q1 = 0, ++q0;
    }
  }
};

// sums += rows * columns for one tap: `rows` of x's channels, `pitch` numbers each, by blocks of 32 of y's.
template <class S>
void add_products(S, const Stored* rows, Index pitch, const Pair* columns, Index positions, Real* sums, Index step) {
  const Index bytes = pitch * static_cast<Index>(sizeof(Stored));
  S::load(sums, step);
  for (Index k = 0; k < positions; k += kDepth, columns += kSide * kSquare)
    S::add(rows + k, rows + kSide * pitch + k, bytes, columns, kSquare * sizeof(Pair));
  S::store(sums, step);
}

// Slabs of channels of both sides, whose sums stay in a cache: of each group, `rows` of x's and `lanes` of y's.
struct Slabs {
  const Problem& p;
  Index row_slabs, lane_slabs, rows, lanes, count;

  explicit Slabs(const Problem& p) : p(p) {
    row_slabs = (p.in + kMatrixRows - 1) / kMatrixRows;
    rows = up((p.in + row_slabs - 1) / row_slabs, kSide);
    const Index most = std::max<Index>(kSquare, kMatrixSums / (p.taps() * rows) / kSquare * kSquare);
    lane_slabs = (p.out + most - 1) / most;
    lanes = up((p.out + lane_slabs - 1) / lane_slabs, kSquare);
    count = p.groups * row_slabs * lane_slabs;
  }
  struct Slab {
    Index group, row, lane, rows, lanes;  // first channels of a group, and how many there are
  };
  Slab at(Index k) const {
    const Index row = k / lane_slabs % row_slabs * rows, lane = k % lane_slabs * lanes;
    return {k / lane_slabs / row_slabs, row, lane, std::min(rows, p.in - row), std::min(lanes, p.out - lane)};
  }
};

// False where the unit is not worth it, or where zeros may have met what is not finite: w is not to be used then.
inline bool matrix_pairing(const Problem& p, const Stored* x, const Stored* y, Stored* w, const Pool& pool) {
  MatrixPairing pairing(p);
  if (!has_matrix_unit() || !pairing.plan()) return false;
  const Slabs slabs(p);
  const Index taps = p.taps(), x_pixel = p.groups * p.in, y_pixel = p.groups * p.out;
  const Index piece = std::min(up(pairing.all, kDepth), std::max(kTurned, up(2 * pairing.reach, kDepth)));
  const Index pieces = (pairing.all + piece - 1) / piece, units = p.batch * pieces;
  // An odd number of cache lines from channel to channel, so that they do not compete for the same sets.
  const Index pitch = ((piece + pairing.reach + kDepth - 1) / kDepth | 1) * kDepth;
  const Index plane = slabs.rows * slabs.lanes, size = slabs.count * taps * plane;
  const Index splits = std::min(units, splits_of(p.batch * pairing.all, 1, slabs.count));
  const Scratch<Real> sums(size * splits);
  const std::vector<Stored> zeros(std::max(x_pixel, y_pixel) + kWide, Stored{0});
  const std::array<Index, 3> all{pairing.all, pairing.length[1], pairing.length[2]};  // gaps are x's positions, too

  pool.run(splits * slabs.count, [&](Index task) {
    thread_local std::vector<const Stored*> at;
    thread_local std::vector<Stored> turned;
    thread_local std::vector<Pair> packed;
    const Index split = task / slabs.count, item = task % slabs.count;
    const Slabs::Slab slab = slabs.at(item);
    Real* const own = sums.get() + split * size + item * taps * plane;
    std::memset(own, 0, sizeof(Real) * taps * plane);
    at.resize(std::max<std::size_t>(at.size(), pitch));
    turned.resize(std::max<std::size_t>(turned.size(), slabs.rows * pitch));
    packed.resize(std::max<std::size_t>(packed.size(), piece / 2 * slabs.lanes));
    const MatrixPairing::Side from_y{y + slab.group * p.out + slab.lane, p.output, {1, 1, 1}, {}, p.output, y_pixel};
    MatrixUnit unit;
    for (Index k = split * units / splits; k < (split + 1) * units / splits; ++k) {
      const Index n = k / pieces, first = k % pieces * piece;
      pairing.point(from_y, n, first, piece, zeros.data(), at.data());
      for (Index block = 0; block < slab.lanes; block += kSquare) {
        Pair* to = packed.data() + piece / 2 * block;
        const Index some = std::min(kSquare, slab.lanes - block);
        for (Index q = 0; q < piece; q += 2, to += kSquare) pack_runs(to, at[q] + block, at[q + 1] + block, some);
      }
      for (const auto& residue : pairing.residues) {
        MatrixPairing::Side from_x{x + slab.group * p.in + slab.row, p.input, p.stride, {}, all, x_pixel};
        for (int a = 0; a < 3; ++a) from_x.offset[a] = p.stride[a] * pairing.least[a] + residue.of[a];
        pairing.point(from_x, n, first, pitch, zeros.data(), at.data());
        for (Index c = 0; c < slab.rows; c += kSide)
          for (Index q = 0; q < pitch; q += kDepth)
            turn_positions(at.data() + q, c, static_cast<int>(std::min(kSide, slab.rows - c)),
                           turned.data() + c * pitch + q, pitch);
        for (Index block = 0; block < slab.lanes; block += kSquare)
          for (std::size_t t = 0; t < residue.taps.size(); ++t)
            for (Index c = 0; c < slab.rows; c += kSquare) {
              const Stored* first_row = turned.data() + c * pitch + residue.shifts[t];
              const Pair* columns = packed.data() + piece / 2 * block;
              Real* to = own + residue.taps[t] * plane + c * slabs.lanes + block;
              with_square(slab.rows - c > kSide, slab.lanes - block > kSide,
                          [&](auto s) { add_products(s, first_row, pitch, columns, piece, to, slabs.lanes); });
            }
      }
    }
  });
  add_splits(sums.get(), size, splits, pool);

  std::atomic<bool> finite{true};
  pool.run(slabs.count * taps, [&](Index task) {
    const Slabs::Slab slab = slabs.at(task / taps);
    const Real* from = sums.get() + task * plane;
    Stored* to = w + (task % taps * p.in + slab.row) * y_pixel + slab.group * p.out + slab.lane;
    Real check = 0;
    for (Index i = 0; i < slab.rows; ++i, from += slabs.lanes, to += y_pixel) {
      for (Index o = 0; o < slab.lanes; ++o) check += from[o] * 0;
      round_run(to, from, slab.lanes);
    }
    if (!(check == 0)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace
}  // namespace jaxconv
#endif
