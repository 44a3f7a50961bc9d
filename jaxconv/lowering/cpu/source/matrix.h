// The matrix unit of a processor (AMX): eight tiles of 16 rows of 64 bytes. A tile of sums, 16 x 16 floats, takes the
// product of 16 rows of 32 bfloat16 and 16 rows of 16 pairs of them.
#pragma once
#include "pairs.h"
#include "processor.h"

// A test may ask for the unit on any processor: a tile is then an array.
#if defined(__AMX_BF16__) && defined(JAXCONV_STORED) && !defined(JAXCONV_MATRIX)
#define JAXCONV_MATRIX 1
#endif

#if defined(JAXCONV_MATRIX)
namespace jaxconv {
namespace {

constexpr Index kSide = 16;   // rows of a tile, and columns of sums
constexpr Index kDepth = 32;  // numbers of an operand's row, which are summed over
static_assert(kPairs && kLanes == kSide && sizeof(Stored) == 2);

#if defined(__AMX_BF16__)
inline bool has_matrix_unit() { return processor().matrix; }

// Written out: compilers' functions take numbers of tiles as text, which no template can give.
template <int tile>
inline void clear_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile));
}
// Row r from `from` + r * `step` bytes on.
template <int tile>
inline void load_tile(const void* from, Index step) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(step), "i"(tile) : "memory");
}
template <int tile>
inline void store_tile(void* to, Index step) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(step), "i"(tile) : "memory");
}
// sums[i][j] += the sum over k of rows[i][k] * columns[k][j]. Numbers below 2^-126 count as zero.
template <int sums, int rows, int columns>
inline void multiply_tiles() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(rows), "i"(columns));
}

// The unit has tiles while this lives; afterwards threads are switched as fast as without them.
class MatrixUnit {
 public:
  MatrixUnit() {
    struct alignas(64) {
      std::uint8_t palette = 1, start = 0, none[14] = {};
      std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } tiles;
    static_assert(sizeof(tiles) == 64);
    __asm__ volatile("ldtilecfg %0" ::"m"(tiles));
  }
  ~MatrixUnit() { __asm__ volatile("tilerelease"); }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
};
#else
inline bool has_matrix_unit() { return true; }
struct MatrixUnit {
  MatrixUnit() {}
  ~MatrixUnit() {}
};
inline Pair (&tile_at(int number)) [kSide][kSide] {
  thread_local Pair tiles[8][kSide][kSide];
  return tiles[number];
} template <int tile>
                                   inline void clear_tile() {
  std::memset(tile_at(tile), 0, sizeof(tile_at(tile)));
}
template <int tile>
inline void load_tile(const void* from, Index step) {
  for (Index r = 0; r < kSide; ++r) std::memcpy(tile_at(tile)[r], static_cast<const char*>(from) + r * step, 64);
}
template <int tile>
inline void store_tile(void* to, Index step) {
  for (Index r = 0; r < kSide; ++r) std::memcpy(static_cast<char*>(to) + r * step, tile_at(tile)[r], 64);
}
template <int sums, int rows, int columns>
inline void multiply_tiles() {
  for (Index r = 0; r < kSide; ++r) {
    Vec sum = bits_as<Vec>(load_packed(tile_at(sums)[r]));
    for (Index k = 0; k < kSide; ++k) add_product(sum, load_packed(tile_at(columns)[k]), tile_at(rows)[r][k]);
    std::memcpy(tile_at(sums)[r], &sum, sizeof(sum));
  }
}
#endif

// Four tiles of sums: 32 rows by 32 columns, or one half of either.
constexpr Index kSquare = 2 * kSide;
template <bool two_rows, bool two_columns>
struct Square {
  static constexpr Index width = two_columns ? kSquare : kSide;
  static void clear() {
    clear_tile<0>();
    if (two_columns) clear_tile<1>();
    if (two_rows) clear_tile<2>();
    if (two_rows && two_columns) clear_tile<3>();
  }
  // `first` and `second`: the rows' numbers, 16 rows each, `row_step` bytes apart; `columns`: 16 rows of pairs.
  static void add(const void* first, const void* second, Index row_step, const Pair* columns, Index column_step) {
    load_tile<4>(first, row_step);
    load_tile<6>(columns, column_step);
    multiply_tiles<0, 4, 6>();
    if (two_columns) {
      load_tile<7>(columns + kSide, column_step);
      multiply_tiles<1, 4, 7>();
    }
    if (two_rows) {
      load_tile<5>(second, row_step);
      multiply_tiles<2, 5, 6>();
      if (two_columns) multiply_tiles<3, 5, 7>();
    }
  }
  static void load(const Real* from, Index step) {
    const Index bytes = step * static_cast<Index>(sizeof(Real));
    load_tile<0>(from, bytes);
    if (two_columns) load_tile<1>(from + kSide, bytes);
    if (two_rows) load_tile<2>(from + kSide * step, bytes);
    if (two_rows && two_columns) load_tile<3>(from + kSide * step + kSide, bytes);
  }
  static void store(Real* to, Index step) {
    const Index bytes = step * static_cast<Index>(sizeof(Real));
    store_tile<0>(to, bytes);
    if (two_columns) store_tile<1>(to + kSide, bytes);
    if (two_rows) store_tile<2>(to + kSide * step, bytes);
    if (two_rows && two_columns) store_tile<3>(to + kSide * step + kSide, bytes);
  }
};

// Calls `call` with the kind of square.
template <class Call>
void with_square(bool two_rows, bool two_columns, const Call& call) {
  if (two_rows) return two_columns ? call(Square<true, true>{}) : call(Square<true, false>{});
  return two_columns ? call(Square<false, true>{}) : call(Square<false, false>{});
}

}  // namespace
}  // namespace jaxconv
#endif
