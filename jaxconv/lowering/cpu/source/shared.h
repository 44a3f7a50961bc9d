// Tiles for several groups in one vector: lanes are their resulting channels, and a contracted channel of a pixel is
// moved to the lanes of its group by a permutation in registers.
#pragma once
#include <algorithm>

#include "stored.h"

namespace jaxconv {
namespace {

#if defined(JAXCONV_PERMUTES)
constexpr bool kPermutes = true;
typedef std::int32_t Places __attribute__((vector_size(JAXCONV_VECTOR)));  // of numbers, in one vector or in two

#if JAXCONV_MASKS == 512
inline Vec permuted(Vec v, Places at) { return (Vec)_mm512_permutexvar_ps((__m512i)at, (__m512)v); }
inline Vec permuted(Vec a, Vec b, Places at) { return (Vec)_mm512_permutex2var_ps((__m512)a, (__m512i)at, (__m512)b); }
#else
inline Vec permuted(Vec v, Places at) { return (Vec)_mm256_permutevar8x32_ps((__m256)v, (__m256i)at); }
inline Vec permuted(Vec a, Vec b, Places at) {
  return (Vec)_mm256_blendv_ps((__m256)permuted(a, at), (__m256)permuted(b, at), (__m256)(at << 28));
}
#endif
#else
constexpr bool kPermutes = false;
#endif
// Whether it is worth taking numbers from two vectors: AVX2 needs three instructions.
constexpr bool kFromTwo = JAXCONV_VECTOR == 64;

// How many groups share a vector; 0 where that is no gain.
inline Index sharing(Index groups, Index in, Index out) {
  if (!kPermutes || in * out == 1 || out > kLanes) return 0;
  const Index most = std::min({kLanes / out, (kFromTwo ? kWide : kLanes) / in, groups});
  if (!kFromTwo && (in * out < 4 || 4 * most * out < 3 * kLanes)) return 0;
  return most > 1 ? most : 0;
}

// Whether groups share vectors in the kernel face, too: not where both sides' channels fill one, nor where many taps
// use the planes of groups with a single channel on one side.
inline bool sharing_pairing(Index groups, Index in, Index out, Index uses) {
  return sharing(groups, in, out) > 0 && in < kLanes && (std::min(in, out) > 1 || uses < 16);
}

#if defined(JAXCONV_PERMUTES)
// Of one vector: the lanes that are channels, and the numbers of a pixel that they contract.
struct Shared {
  Index in;
  Index width;  // from the weights of one contracted channel to those of the next
  int lanes, numbers;
  Places first;  // of each group's first channel

  Shared(Index share, Index in, Index out, Index width)
      : in(in), width(width), lanes(static_cast<int>(share * out)), numbers(static_cast<int>(share * in)) {
    std::int32_t places[kLanes] = {};
    for (int lane = 0; lane < lanes; ++lane) places[lane] = static_cast<std::int32_t>(lane / out * in);
    std::memcpy(&first, places, sizeof(first));
  }

  // Adds products of x's and y's pixels to the sums of `taps` taps, at most kSharedTaps.
  template <class... Rest>
  void multiply(Index taps, Rest... rest) const;

  // The numbers of a pixel that lie at some places.
  template <bool two>
  Vec channel(const Stored* pixel, Places at) const {
    if constexpr (two) {
      return permuted(load(pixel), load_part(pixel + kLanes, numbers - kLanes), at);
    } else {
      return permuted(load_part(pixel, numbers), at);
    }
  }
};

// sum[p] += w[t][i] * pixel[p + t][i] for T taps: what several positions read is moved once.
template <int P, int T, bool two>
[[gnu::always_inline]] inline void add_taps(Vec (&sum)[P], const Shared& s, const Stored* from, Index step,
                                            const Stored* w, Index next_w) {
  Places at = s.first;
  for (Index i = 0; i < s.in; ++i, at += 1, w += s.width) {
    Vec weight[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) weight[t] = load_part(w + t * next_w, s.lanes);
#pragma GCC unroll 32
    for (int u = 0; u < P + T - 1; ++u) {
      const Vec value = s.channel<two>(from + u * step, at);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        if (u - t >= 0 && u - t < P) sum[u - t] += weight[t] * value;
      }
    }
  }
}

// `taps` taps whose pixels are `next` apart and whose weights `next_w`; positions are `step` apart.
template <int P, bool two>
inline void shared_line(Vec (&sum)[P], const Shared& s, const Stored* from, Index step, const Stored* w, Index taps,
                        Index next, Index next_w) {
  if (next == -step) {  // from the last tap on
    from += (taps - 1) * next;
    w += (taps - 1) * next_w;
    next = step;
    next_w = -next_w;
  }
  Index t = 0;
  if (next == step) {
    for (; t + 3 <= taps; t += 3) add_taps<P, 3, two>(sum, s, from + t * next, step, w + t * next_w, next_w);
    if (t + 2 <= taps) {
      add_taps<P, 2, two>(sum, s, from + t * next, step, w + t * next_w, next_w);
      t += 2;
    }
  }
  for (; t < taps; ++t) add_taps<P, 1, two>(sum, s, from + t * next, step, w + t * next_w, next_w);
}

constexpr Index kSharedTaps = 3;  // that are added up at a time in the kernel face

// sum[t][i] += channel i of a, shifted to tap t, times b, for T taps and I channels from `channel` on.
template <int T, int I, bool two>
void shared_multiply(const Shared& s, Index channel, const Stored* a, Index a_step, Index tap_step, const Stored* b,
                     Index b_step, Index count, Real* to, Index to_step) {
  Vec sum[T][I];
  clear(sum);
  const Places first = s.first + static_cast<std::int32_t>(channel);
  for (Index k = 0; k < count; ++k, a += a_step, b += b_step) {
    const Vec value = load_part(b, s.lanes);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) sum[t][i] += s.channel<two>(a + t * tap_step, first + i) * value;
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) {
      Real* at = to + t * to_step + (channel + i) * s.width;
      store_part(at, load_part(at, s.lanes) + sum[t][i], s.lanes);
    }
  }
}

template <int T, bool two, class... Rest>
void shared_channels(const Shared& s, Rest... rest) {
  Index i = 0;
  auto some = [&](auto channels) {
    constexpr int I = decltype(channels)::value;
    if constexpr (T * I <= 2 * kRows) {  // sums that registers hold
      for (; i + I <= s.in; i += I) shared_multiply<T, I, two>(s, i, rest...);
    }
  };
  some(std::integral_constant<int, 8>{});
  some(std::integral_constant<int, 4>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
}

template <class... Rest>
void Shared::multiply(Index taps, Rest... rest) const {
  const bool two = kFromTwo && numbers > kLanes;
  switch (taps) {
    case 1: two ? shared_channels<1, kFromTwo>(*this, rest...) : shared_channels<1, false>(*this, rest...); break;
    case 2: two ? shared_channels<2, kFromTwo>(*this, rest...) : shared_channels<2, false>(*this, rest...); break;
    default: two ? shared_channels<3, kFromTwo>(*this, rest...) : shared_channels<3, false>(*this, rest...);
  }
}
#endif

}  // namespace
}  // namespace jaxconv
