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

inline Bits load_bits(const std::uint16_t* p) {
#if defined(JAXCONV_HALVES_512)
  return bits_as<Bits>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(JAXCONV_HALVES_256)
  return bits_as<Bits>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Narrow narrow;
  std::memcpy(&narrow, p, sizeof(narrow));
  return __builtin_convertvector(narrow, Bits);
#endif
}

// Vectors of floats that lie in memory as numbers half as long.
inline Vec load(const Bfloat16* p) {
  const Bits bits = load_bits(&p->bits) << 16;
  return bits_as<Vec>(bits);
}
inline void store(Bfloat16* p, Vec v) {
  const Bits bits = bits_as<Bits>(v), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const Bits none = bits_as<Bits>(bits_as<Signed>(bits & 0x7fffffffu) > 0x7f800000);
  const Bits half = ((rounded & ~none) | ((bits | 0x400000u) & none)) >> 16;
#if defined(JAXCONV_HALVES_512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bits_as<__m512i>(half)));
#else
  const Narrow narrow = __builtin_convertvector(half, Narrow);
  std::memcpy(p, &narrow, sizeof(narrow));
#endif
}
inline Vec load(const Float16* p) {
#if defined(JAXCONV_HALVES_512)
  return bits_as<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(JAXCONV_HALVES_256)
  return bits_as<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Real part[kLanes];
  for (int k = 0; k < kLanes; ++k) part[k] = widened(p[k]);
  return load(part);
#endif
}
inline void store(Float16* p, Vec v) {
#if defined(JAXCONV_HALVES_512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(JAXCONV_HALVES_256)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  Real part[kLanes];
  store(part, v);
  for (int k = 0; k < kLanes; ++k) round_to(p[k], part[k]);
#endif
}

template <class Half>
inline void copy_halves(Half* to, const Half* from, int count) {
#pragma GCC unroll 4
  for (int piece = kLanes / 2; piece > 0; piece /= 2) {
    if (count & piece) {
      std::memcpy(to, from, sizeof(Half) * piece);
      to += piece;
      from += piece;
    }
  }
}
template <class Half, class = decltype(Half::bits)>
inline Vec load_part(const Half* p, int count) {
  if (count == kLanes) return load(p);
  Half part[kLanes] = {};
  copy_halves(part, p, count);
  return load(part);
}
template <class Half, class = decltype(Half::bits)>
inline void store_part(Half* p, Vec v, int count) {
  if (count == kLanes) return store(p, v);
  Half part[kLanes];
  store(part, v);
  copy_halves(p, part, count);
}

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

}  // namespace
}  // namespace jaxconv
