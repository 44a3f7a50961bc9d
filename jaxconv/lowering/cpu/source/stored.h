// Numbers as they lie in memory: those that are computed with, or half as long ones, which are widened where they are
// read and rounded to nearest, ties to even, where a result is written.
#pragma once
#include <cstring>
#include <type_traits>

#include "vector.h"
// Compilers make several instructions of what the processor has one for.
#if defined(__AVX512F__) && JAXCONV_VECTOR == 64
#define JAXCONV_HALVES_512
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__F16C__) && JAXCONV_VECTOR == 32
#define JAXCONV_HALVES_256
#include <immintrin.h>
#endif

namespace jaxconv {
namespace {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline float widened(float value) { return value; }
inline double widened(double value) { return value; }
inline float widened(Bfloat16 value) { return bits_as<float>(std::uint32_t{value.bits} << 16); }
inline float widened(Float16 value) {
#if defined(__aarch64__)
  return bits_as<__fp16>(value);
#else
  const std::uint32_t sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31u, rest = value.bits & 0x3ffu;
  if (exponent == 0) {  // times 2^-24, which is exact
    const float size = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -size : size;
  }
  return bits_as<float>(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | rest << 13);
#endif
}

inline void round_to(float& to, float value) { to = value; }
inline void round_to(double& to, double value) { to = value; }
inline void round_to(Bfloat16& to, float value) {
  const auto bits = bits_as<std::uint32_t>(value);
  const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;  // a carry would make others of what is none
  to.bits = static_cast<std::uint16_t>((number ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u) >> 16);
}
inline void round_to(Float16& to, float value) {
#if defined(__aarch64__)
  to = bits_as<Float16>(static_cast<__fp16>(value));
#else
  const auto all = bits_as<std::uint32_t>(value), size = all & 0x7fffffffu;
  std::uint32_t half;
  if (size > 0x7f800000u) {
    half = 0x7e00u | (size >> 13 & 0x3ffu);
  } else if (size >= 0x47800000u) {
    half = 0x7c00u;
  } else if (size < 0x38800000u) {  // numbers from a half to one are as far apart as these are to be
    half = bits_as<std::uint32_t>(bits_as<float>(size) + 0.5f) - 0x3f000000u;
  } else {
    half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
  }
  to.bits = static_cast<std::uint16_t>(all >> 16 & 0x8000u) | static_cast<std::uint16_t>(half);
#endif
}

#if defined(JAXCONV_STORED)
typedef std::uint16_t Narrow __attribute__((vector_size(kLanes * 2)));
typedef std::uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Signed __attribute__((vector_size(kLanes * 4)));

#if defined(JAXCONV_HALVES_512)
typedef __m256i Halves;  // a vector's numbers as they lie in memory
inline Halves load_halves(const void* p) { return _mm256_loadu_si256(static_cast<const Halves*>(p)); }
inline void store_halves(void* p, Halves halves) { _mm256_storeu_si256(static_cast<Halves*>(p), halves); }
// The first `count`, and zeros: two at a time, and an odd one.
inline Halves load_halves(const std::uint16_t* p, int count) {
  __m512i pairs = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count / 2) - 1), p);
  if (count % 2 != 0) pairs = _mm512_mask_set1_epi32(pairs, static_cast<__mmask16>(1u << count / 2), p[count - 1]);
  return _mm512_castsi512_si256(pairs);
}
inline Bits bits_of(Halves halves) { return bits_as<Bits>(_mm512_cvtepu16_epi32(halves)); }
inline Halves halves_of(Bits bits) { return _mm512_cvtepi32_epi16(bits_as<__m512i>(bits)); }
#elif defined(JAXCONV_HALVES_256)
typedef __m128i Halves;
inline Halves load_halves(const void* p) { return _mm_loadu_si128(static_cast<const Halves*>(p)); }
inline void store_halves(void* p, Halves halves) { _mm_storeu_si128(static_cast<Halves*>(p), halves); }
inline Halves load_halves(const std::uint16_t* p, int count) {
  const Halves place = _mm_setr_epi32(0, 1, 2, 3), end = _mm_set1_epi32(count / 2);
  Halves pairs = _mm_maskload_epi32(reinterpret_cast<const int*>(p), _mm_cmpgt_epi32(end, place));
  if (count % 2 != 0) pairs = _mm_or_si128(pairs, _mm_and_si128(_mm_cmpeq_epi32(end, place), _mm_set1_epi32(p[count - 1])));
  return pairs;
}
inline Bits bits_of(Halves halves) { return bits_as<Bits>(_mm256_cvtepu16_epi32(halves)); }
inline Halves halves_of(Bits bits) { return bits_as<Halves>(__builtin_convertvector(bits, Narrow)); }
#else
typedef Narrow Halves;
inline Halves load_halves(const void* p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof(halves));
  return halves;
}
inline void store_halves(void* p, Halves halves) { std::memcpy(p, &halves, sizeof(halves)); }
inline Halves load_halves(const std::uint16_t* p, int count) {
  Halves halves{};
  std::memcpy(&halves, p, sizeof(*p) * count);
  return halves;
}
inline Bits bits_of(Halves halves) { return __builtin_convertvector(halves, Bits); }
inline Halves halves_of(Bits bits) { return __builtin_convertvector(bits, Narrow); }
#endif

inline Bits load_bits(const Stored* p, int count) {
  return bits_of(count == kLanes ? load_halves(p) : load_halves(&p->bits, count));
}

// A bfloat16 is the upper half of a float.
inline Vec wide_of(Halves halves, Bfloat16) {
  const Bits bits = bits_of(halves) << 16;
  return bits_as<Vec>(bits);
}
inline Bits rounded(Vec v) {  // the upper half of each
  const Bits bits = bits_as<Bits>(v), carried = bits + 0x7fffu + (bits >> 16 & 1u);
  const Bits none = bits_as<Bits>(bits_as<Signed>(bits & 0x7fffffffu) > 0x7f800000);
  return (carried & ~none) | ((bits | 0x400000u) & none);
}
inline Halves halves_of(Vec v, Bfloat16) { return halves_of(rounded(v) >> 16); }

inline Vec wide_of(Halves halves, Float16) {
#if defined(JAXCONV_HALVES_512)
  return bits_as<Vec>(_mm512_cvtph_ps(halves));
#elif defined(JAXCONV_HALVES_256)
  return bits_as<Vec>(_mm256_cvtph_ps(halves));
#else
  Vec v;
  for (int k = 0; k < kLanes; ++k) v[k] = widened(Float16{halves[k]});
  return v;
#endif
}
inline Halves halves_of(Vec v, Float16) {
#if defined(JAXCONV_HALVES_512)
  return _mm512_cvtps_ph(bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
#elif defined(JAXCONV_HALVES_256)
  return _mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
#else
  Halves halves;
  for (int k = 0; k < kLanes; ++k) {
    Float16 half;
    round_to(half, v[k]);
    halves[k] = half.bits;
  }
  return halves;
#endif
}

inline Vec load(const Stored* p) { return wide_of(load_halves(p), Stored{}); }
inline void store(Stored* p, Vec v) { store_halves(p, halves_of(v, Stored{})); }
inline Vec load_part(const Stored* p, int count) {
  return count == kLanes ? load(p) : wide_of(load_halves(&p->bits, count), Stored{});
}
inline void store_part(Stored* p, Vec v, int count) {
  if (count == kLanes) return store(p, v);
  Stored part[kLanes];
  store(part, v);
#pragma GCC unroll 4
  for (int piece = kLanes / 2, k = 0; piece > 0; piece /= 2) {
    if (count & piece) {
      std::memcpy(p + k, part + k, sizeof(Stored) * piece);
      k += piece;
    }
  }
}

// Two vectors of numbers that lie side by side, in an order of the format's own: of bfloat16 the even ones, which a shift
// widens, and the odd ones, which are wide already. `in_order` is for sums of them.
inline void load_two(const Stored* p, Vec& a, Vec& b) {
  if constexpr (std::is_same_v<Stored, Bfloat16>) {
    Bits both;
    std::memcpy(&both, p, sizeof(both));
    const Bits even = both << 16, odd = both & 0xffff0000u;
    a = bits_as<Vec>(even);
    b = bits_as<Vec>(odd);
  } else {
    a = load(p);
    b = load(p + kLanes);
  }
}
inline void store_two(Stored* p, Vec a, Vec b) {
  if constexpr (std::is_same_v<Stored, Bfloat16>) {
    const Bits both = rounded(a) >> 16 | (rounded(b) & 0xffff0000u);
    std::memcpy(p, &both, sizeof(both));
  } else {
    store(p, a);
    store(p + kLanes, b);
  }
}
inline void in_order(Real* to, const Real* from) {
  for (int k = 0; k < kLanes; ++k) {
    const bool apart = std::is_same_v<Stored, Bfloat16>;
    to[apart ? 2 * k : k] = from[k];
    to[apart ? 2 * k + 1 : k + kLanes] = from[k + kLanes];
  }
}
#else
inline void load_two(const Real* p, Vec& a, Vec& b) {
  a = load(p);
  b = load(p + kLanes);
}
inline void store_two(Real* p, Vec a, Vec b) {
  store(p, a);
  store(p + kLanes, b);
}
inline void in_order(Real* to, const Real* from) { std::memcpy(to, from, sizeof(Real) * kWide); }
#endif

// Runs of numbers from memory to registers' format, and back.
template <class From>
inline void widen(Real* to, const From* from, Index count) {
  if constexpr (std::is_same_v<From, Real>) {
    std::memcpy(to, from, sizeof(Real) * count);
  } else {
    Index k = 0;
    for (; k + kLanes <= count; k += kLanes) store(to + k, load(from + k));
    for (; k < count; ++k) to[k] = widened(from[k]);
  }
}
template <class To>
inline void round_run(To* to, const Real* from, Index count) {
  if constexpr (std::is_same_v<To, Real>) {
    std::memcpy(to, from, sizeof(Real) * count);
  } else {
    Index k = 0;
    for (; k + kLanes <= count; k += kLanes) store(to + k, load(from + k));
    for (; k < count; ++k) round_to(to[k], from[k]);
  }
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define JAXCONV_SHUFFLES
// The halves' numbers in turn: a0 b0 a1 b1 ..., from number `from` on.
template <int from, int... k>
inline Vec interleaved(Vec a, Vec b, std::integer_sequence<int, k...>) {
  return __builtin_shufflevector(a, b, (from + k / 2 + k % 2 * kLanes)...);
}
// Rows become columns: after as many rounds as a lane's number has bits, each row's bits have become the lane's.
template <int rounds = kLanes>
[[gnu::always_inline]] inline void turn(Vec (&v)[kLanes]) {
  if constexpr (rounds > 1) {
    constexpr std::make_integer_sequence<int, kLanes> all;
    Vec next[kLanes];
#pragma GCC unroll 8
    for (int k = 0; k < kLanes / 2; ++k) {
      next[2 * k] = interleaved<0>(v[k], v[k + kLanes / 2], all);
      next[2 * k + 1] = interleaved<kLanes / 2>(v[k], v[k + kLanes / 2], all);
    }
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) v[k] = next[k];
    turn<rounds / 2>(v);
  }
}
#endif
#endif

// to[column * step + row] = from[row * next + column], and zeros for the rows that do not exist, of at most kLanes.
inline void transpose(const Stored* from, Index next, int rows, int columns, Real* to, Index step) {
#if defined(JAXCONV_SHUFFLES)
  Vec v[kLanes];
#pragma GCC unroll 16
  for (int row = 0; row < kLanes; ++row) {
    v[row] = row >= rows ? Vec{} : columns == kLanes ? load(from + row * next) : load_part(from + row * next, columns);
  }
  turn(v);
#pragma GCC unroll 16
  for (int column = 0; column < kLanes; ++column) {
    if (column < columns) store(to + column * step, v[column]);
  }
#else
  for (int column = 0; column < columns; ++column)
    for (int row = 0; row < kLanes; ++row) to[column * step + row] = row < rows ? widened(from[row * next + column]) : Real{0};
#endif
}

}  // namespace
}  // namespace jaxconv
