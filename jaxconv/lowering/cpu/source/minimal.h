// Two neighbouring results of a short filter by fewer products than taps: K + 1 sums of the K + 1 numbers that two
// results of K taps read are multiplied by as many sums of taps. All factors are ones and halves, so that whole numbers
// stay exact; and each result is made of sums of numbers that it reads: none depends on what lies beside its window.
//
// Source: Winograd 1980 ("Arithmetic Complexity of Computations"); Lavin and Gray 2016 ("Fast Algorithms for
// Convolutional Neural Networks", arXiv:1509.09308, section 4.1: F(2, 3)).
#pragma once
#include "vector.h"

namespace jaxconv {
namespace {

// `data` sums what the filter passes over, `taps` the filter, and `results` the products: results(data(d) * taps(g)) is
// d0*g0 + d1*g1 + ... and d1*g0 + d2*g1 + .... `spread` and `gathered` are the transposes of `results` and `taps`.
template <int K>
struct Minimal;

template <>
struct Minimal<1> {
  static constexpr int products = 1, results_of = 1;
  static void data(Vec*, int) {}
  static void taps(const Vec* g, int, Vec* to, int) { to[0] = g[0]; }
  static void results(const Vec* m, int, Vec* to, int) { to[0] = m[0]; }
  static void spread(const Vec* y, int, Vec* to, int) { to[0] = y[0]; }
  static void gathered(const Vec* m, int, Vec* to, int) { to[0] = m[0]; }
};

template <>
struct Minimal<2> {
  static constexpr int products = 3, results_of = 2;
  [[gnu::always_inline]] static void data(Vec* d, int s) {
    d[0] = d[0] - d[s];
    d[2 * s] = d[s] - d[2 * s];
  }
  [[gnu::always_inline]] static void taps(const Vec* g, int s, Vec* to, int t) {
    to[0] = g[0];
    to[t] = g[0] + g[s];
    to[2 * t] = g[s];
  }
  [[gnu::always_inline]] static void results(const Vec* m, int s, Vec* to, int t) {
    to[0] = m[0] + m[s];
    to[t] = m[s] - m[2 * s];
  }
  [[gnu::always_inline]] static void spread(const Vec* y, int s, Vec* to, int t) {
    to[0] = y[0];
    to[t] = y[0] + y[s];
    to[2 * t] = -y[s];
  }
  [[gnu::always_inline]] static void gathered(const Vec* m, int s, Vec* to, int t) {
    to[0] = m[0] + m[s];
    to[t] = m[s] + m[2 * s];
  }
};

template <>
struct Minimal<3> {
  static constexpr int products = 4, results_of = 2;
  [[gnu::always_inline]] static void data(Vec* d, int s) {
    const Vec first = d[0] - d[2 * s], last = d[s] - d[3 * s];
    const Vec sum = d[s] + d[2 * s], difference = d[2 * s] - d[s];
    d[0] = first, d[s] = sum, d[2 * s] = difference, d[3 * s] = last;
  }
  [[gnu::always_inline]] static void taps(const Vec* g, int s, Vec* to, int t) {
    const Vec outer = (g[0] + g[2 * s]) * Real(0.5), inner = g[s] * Real(0.5);
    to[0] = g[0];
    to[t] = outer + inner;
    to[2 * t] = outer - inner;
    to[3 * t] = g[2 * s];
  }
  [[gnu::always_inline]] static void results(const Vec* m, int s, Vec* to, int t) {
    to[0] = m[0] + (m[s] + m[2 * s]);
    to[t] = m[s] - m[2 * s] - m[3 * s];
  }
  [[gnu::always_inline]] static void spread(const Vec* y, int s, Vec* to, int t) {
    to[0] = y[0];
    to[t] = y[0] + y[s];
    to[2 * t] = y[0] - y[s];
    to[3 * t] = -y[s];
  }
  [[gnu::always_inline]] static void gathered(const Vec* m, int s, Vec* to, int t) {
    const Vec sum = (m[s] + m[2 * s]) * Real(0.5);
    to[0] = m[0] + sum;
    to[t] = (m[s] - m[2 * s]) * Real(0.5);
    to[2 * t] = sum + m[3 * s];
  }
};

}  // namespace
}  // namespace jaxconv
