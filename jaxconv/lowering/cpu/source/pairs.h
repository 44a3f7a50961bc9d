// What the operands of a sum of products are packed as: numbers, or, where the processor multiplies and adds two
// bfloat16 at once, pairs of numbers that are summed over.
#pragma once
#include <algorithm>

#include "stored.h"

// A test may ask for pairs on any processor: each is then two products.
#if defined(__AVX512BF16__) && defined(JAXCONV_STORED) && !defined(JAXCONV_PAIRS)
#define JAXCONV_PAIRS 1
#endif

namespace jaxconv {
namespace {

using Pair = std::uint32_t;  // the first number in the lower half

template <class Half>
inline Pair pair_at(const Half* p) {
  Pair pair;
  std::memcpy(&pair, p, sizeof(pair));
  return pair;
}

#if defined(JAXCONV_PAIRS)
constexpr bool kPairs = true;
using Packed = Pair;
using PackedVec = Bits;

inline Bits load_packed(const void* p) {
  Bits bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
// A vector of pairs from number `at` of a run on, or `count` numbers and zeros.
inline Bits load_run(const void* run, Index at) { return load_packed(static_cast<const Stored*>(run) + at); }
inline Bits load_run(const void* run, Index at, int count) {
  const Stored* p = static_cast<const Stored*>(run) + at;
#if defined(__AVX512BF16__) && JAXCONV_VECTOR == 64
  return bits_as<Bits>(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << count) - 1), p));
#else
  Bits bits{};
  std::memcpy(&bits, p, sizeof(Stored) * count);
  return bits;
#endif
}

// sum + the first numbers' product + the second numbers' product, in every lane. The instruction takes numbers below
// 2^-126 for zero.
inline void add_product(Vec& sum, Bits a, Bits b) {
#if defined(__AVX512BF16__) && JAXCONV_VECTOR == 64
  sum = bits_as<Vec>(_mm512_dpbf16_ps(bits_as<__m512>(sum), bits_as<__m512bh>(a), bits_as<__m512bh>(b)));
#else
  sum += bits_as<Vec>(a << 16) * bits_as<Vec>(b << 16);
  sum += bits_as<Vec>(a & 0xffff0000u) * bits_as<Vec>(b & 0xffff0000u);
#endif
}
inline void add_product(Vec& sum, Bits a, Pair b) { add_product(sum, a, Bits{} + b); }

// Packs `count` numbers, and zeros to the end of the last vector: the first numbers of pairs where their number in the sum
// is even, which writes the pairs, the second ones where it is odd.
inline void pack_run(Pair* to, const Stored* from, Index count, Index number) {
  for (Index c = 0; c < count; c += kLanes) {
    Bits pairs = load_bits(from + c, static_cast<int>(std::min<Index>(kLanes, count - c)));
    if (number % 2 != 0) pairs = load_packed(to + c) | pairs << 16;
    std::memcpy(to + c, &pairs, sizeof(pairs));
  }
}
// Both numbers of the pairs.
inline void pack_runs(Pair* to, const Stored* first, const Stored* second, Index count) {
  for (Index c = 0; c < count; c += kLanes) {
    const int some = static_cast<int>(std::min<Index>(kLanes, count - c));
    const Bits pairs = load_bits(first + c, some) | load_bits(second + c, some) << 16;
    std::memcpy(to + c, &pairs, sizeof(pairs));
  }
}

#else
constexpr bool kPairs = false;
using Packed = Real;
using PackedVec = Vec;

inline Vec load_packed(const Real* p) { return load(p); }
template <class Number>
inline Vec load_run(const Number* run, Index at) {
  return load(run + at);
}
template <class Number>
inline Vec load_run(const Number* run, Index at, int count) {
  return load_part(run + at, count);
}
inline void add_product(Vec& sum, Vec a, Vec b) { sum += a * b; }
inline void add_product(Vec& sum, Vec a, Real b) { sum += a * b; }

// Packs `count` numbers, and zeros to the end of the last vector.
inline void pack_run(Real* to, const Stored* from, Index count, Index /*number*/) {
  Index c = 0;
  for (; c + kLanes <= count; c += kLanes) store(to + c, load(from + c));
  if (c < count) store(to + c, load_part(from + c, static_cast<int>(count - c)));
}
#endif

}  // namespace
}  // namespace jaxconv
