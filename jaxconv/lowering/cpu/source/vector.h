// Vectors of the instruction set this file is compiled for, by the compiler's vector extension.
#pragma once
#include <cstdint>
#include <cstring>

#include "problem.h"

#if defined(__AVX2__) && !defined(JAXCONV_VECTOR)
#include <immintrin.h>
#if defined(__AVX512F__)
#define JAXCONV_MASKS 512
#else
#define JAXCONV_MASKS 256
#endif
#endif

#if defined(JAXCONV_VECTOR)
// A test may set the sizes of another processor than its own: the compiler then splits the vectors.
#elif defined(__AVX512F__)
#define JAXCONV_VECTOR 64
#define JAXCONV_ROWS 12
#define JAXCONV_THIN_ROWS 12
#define JAXCONV_FEW_ROWS 6
#define JAXCONV_LONE_ROWS 6
#define JAXCONV_LONE_VECTORS 4
#elif defined(__AVX__)
#define JAXCONV_VECTOR 32
#define JAXCONV_ROWS 6
#elif defined(__aarch64__)  // NEON: 32 registers
#define JAXCONV_VECTOR 16
#define JAXCONV_ROWS 12
#define JAXCONV_LONE_ROWS 8
#else
#define JAXCONV_VECTOR 16
#define JAXCONV_ROWS 6
#endif
#ifndef JAXCONV_THIN_ROWS
#define JAXCONV_THIN_ROWS (2 * JAXCONV_ROWS)
#endif
#ifndef JAXCONV_FEW_ROWS
#define JAXCONV_FEW_ROWS 4
#endif
#ifndef JAXCONV_LONE_ROWS
#define JAXCONV_LONE_ROWS JAXCONV_ROWS
#endif
#ifndef JAXCONV_LONE_VECTORS
#define JAXCONV_LONE_VECTORS 2
#endif

// Whether there are permutations of this format's vectors: JAXCONV_REAL is float, or double.
#define JAXCONV_IS_float 1
#define JAXCONV_IS_double 0
#define JAXCONV_IS2(real) JAXCONV_IS_##real
#define JAXCONV_IS(real) JAXCONV_IS2(real)
#if defined(JAXCONV_MASKS) && JAXCONV_IS(JAXCONV_REAL)
#define JAXCONV_PERMUTES
#endif

namespace jaxconv {
namespace {

using Real = JAXCONV_REAL;  // in registers, and what is kept in between
#if defined(JAXCONV_STORED)
using Stored = JAXCONV_STORED;  // in the operands and the result
#else
using Stored = Real;
#endif

constexpr int kLanes = JAXCONV_VECTOR / sizeof(Real);  // numbers of a vector
constexpr int kRows = JAXCONV_ROWS;  // rows of the main accumulator tile: kRows x 2 vectors stay in registers
static_assert(2 * kRows <= 32, "`GCC unroll 32` unrolls no more: a tile of one vector would lie in memory");
// Rows of a tile of one vector: where vectors are long, as many as there are registers for the addresses of its pixels.
constexpr int kThinRows = JAXCONV_THIN_ROWS;
// Rows of a tile of few resulting channels: as many sums as a processor has under way.
constexpr int kFewRows = JAXCONV_FEW_ROWS;
// Rows of a depthwise tile, and its vectors: wide ones write longer runs of memory. Where products take no operand from
// memory, what they load needs registers, too.
constexpr int kLoneRows = JAXCONV_LONE_ROWS, kLoneVectors = JAXCONV_LONE_VECTORS;
constexpr int kWide = 2 * kLanes;
constexpr Index kCacheLine = 64 / sizeof(Stored);

typedef Real Vec __attribute__((vector_size(JAXCONV_VECTOR)));
// The same vector where it may lie at any address.
typedef Real Loose __attribute__((vector_size(JAXCONV_VECTOR), aligned(sizeof(Real)), may_alias));

inline Index up(Index value, Index unit) { return (value + unit - 1) / unit * unit; }

inline Vec load(const Real* p) { return *reinterpret_cast<const Loose*>(p); }
inline void store(Real* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }

// Sets a tile to zero number by number. For `= {}` compilers clear memory first, which is slow for a small tile.
template <int P, int V>
inline void clear(Vec (&sum)[P][V]) {
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[p][v] = Vec{};
  }
}

#if defined(JAXCONV_MASKS)  // 512: also for what is written; 256: processors before AVX-512 are slow at that
// Lanes that a mask leaves out are not touched in memory.
#if JAXCONV_MASKS == 512
inline Vec load_part(const float* p, int count) { return (Vec)_mm512_maskz_loadu_ps((1u << count) - 1, p); }
inline Vec load_part(const double* p, int count) { return (Vec)_mm512_maskz_loadu_pd((1u << count) - 1, p); }
inline void store_part(float* p, Vec v, int count) { _mm512_mask_storeu_ps(p, (1u << count) - 1, (__m512)v); }
inline void store_part(double* p, Vec v, int count) { _mm512_mask_storeu_pd(p, (1u << count) - 1, (__m512d)v); }
#else
constexpr std::int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
inline __m256i mask(int bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(reinterpret_cast<const char*>(kMask + 8) - bytes));
}
inline Vec load_part(const float* p, int count) { return (Vec)_mm256_maskload_ps(p, mask(4 * count)); }
inline Vec load_part(const double* p, int count) { return (Vec)_mm256_maskload_pd(p, mask(8 * count)); }
#endif
#endif
#if !defined(JAXCONV_MASKS) || JAXCONV_MASKS == 256
// Copies the first `count` numbers in pieces of fixed sizes. Calling memcpy would take longer than the copy.
inline void copy_part(Real* to, const Real* from, int count) {
#pragma GCC unroll 4
  for (int piece = kLanes / 2; piece > 0; piece /= 2) {
    if (count & piece) {
      std::memcpy(to, from, sizeof(Real) * piece);
      to += piece;
      from += piece;
    }
  }
}
inline void store_part(Real* p, Vec v, int count) {
  if (count == kLanes) {
    store(p, v);
  } else {
    copy_part(p, reinterpret_cast<const Real*>(&v), count);
  }
}
#endif
#if !defined(JAXCONV_MASKS)
inline Vec load_part(const Real* p, int count) {
  if (count == kLanes) return load(p);
  Vec v{};
  copy_part(reinterpret_cast<Real*>(&v), p, count);
  return v;
}
#endif

}  // namespace
}  // namespace jaxconv
