// What follows a convolution in a network, done to its results while they are in a cache: a factor and a bias for each
// channel, a sum with another array, and an activation of straight pieces.
#pragma once
#include <algorithm>
#include <utility>

#include "scratch.h"
#include "stored.h"

namespace jaxconv {
namespace {

class After {
  enum class Below { same, zero, slope };  // what numbers below zero become

 public:
  // Of `channels` a position. The table is laid out so that a vector may begin at any channel.
  After(const Epilogue<Stored>& e, const Stored* result, Index channels)
      : residual_(e.residual),
        result_(result),
        below_(e.slope ? Below::slope : e.rectify ? Below::zero : Below::same),
        most_(e.most),
        channels_(channels),
        row_(channels + kLanes),
        step_(kLanes % channels),
        table_(3 * row_) {
    Real* to = table_.get();
    for (const auto& [from, otherwise] : {std::pair{e.scale, Real{1}}, {e.bias, Real{0}}, {e.slope, Real{0}}}) {
      from ? (void)std::memcpy(to, from, sizeof(Real) * channels) : std::fill(to, to + channels, otherwise);
      for (Index k = 0; k < kLanes; ++k) to[channels + k] = to[k];  // also where these are fewer than a vector
      to += row_;
    }
  }

  // Writes a tile of sums, whole vectors row by row, of which `channels` from `channel` on exist; row p goes to rows[p].
  void write(const Real* sums, int vectors, Stored* const* rows, Index count, Index channel, Index channels) const {
    each(rows, count, channel, channels, [&](Index p, Index v, const Stored*, int) { return load(sums + p * vectors * kLanes + v); });
  }

  // The same for results that are written already.
  void finish_rows(Stored* const* rows, Index count, Index channel, Index channels) const {
    each(rows, count, channel, channels, [](Index, Index, const Stored* at, int some) {
      return some == kLanes ? load(at) : load_part(at, some);
    });
  }

  // `count` results that lie side by side, the first one's channel given.
  void finish(Stored* at, Index channel, Index count) const {
    for (Index k = 0; k < count; k += kLanes, at += kLanes) {
      finish_rows(&at, 1, channel, std::min<Index>(kLanes, count - k));
      channel += step_;
      if (channel >= channels_) channel -= channels_;
    }
  }

  // The same for all channels of `positions` results, by the pool.
  void finish_all(Stored* at, Index positions, const Pool& pool) const {
    const Index some = std::max<Index>(1, 16384 / channels_);
    pool.run((positions + some - 1) / some, [&](Index task) {
      finish(at + task * some * channels_, 0, std::min(some, positions - task * some) * channels_);
    });
  }

 private:
  template <class Read>
  void each(Stored* const* rows, Index count, Index channel, Index channels, const Read& read) const {
    if (below_ == Below::same) return each<Below::same>(rows, count, channel, channels, read);
    if (below_ == Below::zero) return each<Below::zero>(rows, count, channel, channels, read);
    each<Below::slope>(rows, count, channel, channels, read);
  }

  // Not inlined: every tile would be several times as long.
  template <Below below, class Read>
  [[gnu::noinline]] void each(Stored* const* rows, Index count, Index channel, Index channels, const Read& read) const {
    const Vec most = Vec{} + most_;
    for (Index v = 0; v < channels; v += kLanes) {
      const int some = static_cast<int>(std::min<Index>(kLanes, channels - v));
      const bool whole = some == kLanes;
      const Real* const at = table_.get() + channel + v;
      const Vec scale = load(at), bias = load(at + row_), slope = load(at + 2 * row_);
      for (Index p = 0; p < count; ++p) {
        Stored* const to = rows[p] + v;
        Vec value = read(p, v, to, some) * scale + bias;
        if (residual_) {
          const Stored* const other = residual_ + (to - result_);
          value += whole ? load(other) : load_part(other, some);
        }
        // Comparisons are false for what is no number, which stays so.
        if constexpr (below == Below::zero) value = value < 0 ? Vec{} : value;
        if constexpr (below == Below::slope) value = value < 0 ? value * slope : value;
        value = most < value ? most : value;
        whole ? store(to, value) : store_part(to, value, some);
      }
    }
  }

  const Stored *const residual_, *const result_;
  const Below below_;
  const Real most_;
  const Index channels_, row_, step_;  // `row_`: of the table; `step_`: from a vector's first channel to the next one's
  const Scratch<Real> table_;
};

}  // namespace
}  // namespace jaxconv
