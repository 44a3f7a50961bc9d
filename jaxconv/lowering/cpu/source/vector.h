// Vectors of the instruction set this file is compiled for, by the compiler's vector extension.
#pragma once
#include <cstring>

#include "problem.h"

#if defined(JAXCONV_VECTOR)
// A test may set the sizes of another processor than its own: the compiler then splits the vectors.
#elif defined(__AVX512F__)
#define JAXCONV_VECTOR 64
#define JAXCONV_ROWS 12
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
#ifndef JAXCONV_LONE_ROWS
#define JAXCONV_LONE_ROWS JAXCONV_ROWS
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
static_assert(2 * kRows <= 32, "a tile of one vector has 2 * kRows rows, and `GCC unroll 32` unrolls no more: it would lie in memory");
// Rows of a depthwise tile. Where products take no operand from memory, what they load needs registers, too.
constexpr int kLoneRows = JAXCONV_LONE_ROWS;
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
inline Vec load_part(const Real* p, int count) {
  if (count == kLanes) return load(p);
  Vec v{};
  copy_part(reinterpret_cast<Real*>(&v), p, count);
  return v;
}
inline void store_part(Real* p, Vec v, int count) {
  if (count == kLanes) {
    store(p, v);
  } else {
    copy_part(p, reinterpret_cast<const Real*>(&v), count);
  }
}

}  // namespace
}  // namespace jaxconv
