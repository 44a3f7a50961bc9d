// Random geometries through the kernels under the sanitizers, against the definition. Arguments: seed, cases.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "problem.h"

using namespace jaxconv;
namespace jaxconv {
template <class T>
const Kernels<T>& JAXCONV_NAME();
}
using Real = JAXCONV_REAL;
using Numbers = std::vector<Real>;  // exactly as large as the array, so that any access beside it is caught

int main(int, char** words) {
  std::mt19937 random(std::atoi(words[1]));
  auto pick = [&](Index low, Index high) { return low + static_cast<Index>(random() % (high - low + 1)); };
  double worst = 0;
  for (int number = std::atoi(words[2]); number-- > 0;) {
    Problem p;
    p.batch = pick(1, 3);
    const int rank = static_cast<int>(pick(1, 3));
    for (int a = 0; a < 3; ++a) {
      const bool used = a >= 3 - rank;
      p.kernel[a] = used ? pick(1, 5) : 1;
      p.stride[a] = used ? pick(1, 3) : 1;
      p.dilation[a] = used ? pick(1, 3) : 1;
      p.low[a] = used ? pick(-2, 6) : 0;
      p.input[a] = used ? pick(1, rank == 1 ? 60 : 14) : 1;
      p.output[a] = used ? pick(1, rank == 1 ? 60 : 12) : 1;
    }
    const Index kind = pick(0, 3);
    p.groups = kind == 0 ? pick(2, 40) : kind == 1 ? pick(2, 4) : 1;
    p.in = kind == 0 ? 1 : pick(1, pick(0, 1) ? 6 : 40);
    p.out = kind == 0 ? 1 : pick(1, pick(0, 1) ? 6 : 40);
    Pool pool;
    pool.threads = pick(1, 3);
    pool.run = [&](Index count, const std::function<void(Index)>& task) {
      std::vector<std::thread> threads;
      for (Index t = 0; t < pool.threads; ++t)
        threads.emplace_back([&, t] {
          for (Index k = t; k < count; k += pool.threads) task(k);
        });
      for (auto& thread : threads) thread.join();
    };
    auto volume = [](const std::array<Index, 3>& s) { return s[0] * s[1] * s[2]; };
    const Index in = p.groups * p.in, out = p.groups * p.out;
    Numbers x(p.batch * volume(p.input) * in), y(p.batch * volume(p.output) * out), w(p.taps() * p.in * out);
    std::normal_distribution<Real> normal;
    for (auto* array : {&x, &y, &w})
      for (Real& value : *array) value = normal(random);
    std::vector<double> rx(x.size()), ry(y.size()), rw(w.size());
    std::array<Index, 3> q, t, u;
    for (Index n = 0; n < p.batch; ++n)
      for (q[0] = 0; q[0] < p.output[0]; ++q[0])
        for (q[1] = 0; q[1] < p.output[1]; ++q[1])
          for (q[2] = 0; q[2] < p.output[2]; ++q[2])
            for (t[0] = 0; t[0] < p.kernel[0]; ++t[0])
              for (t[1] = 0; t[1] < p.kernel[1]; ++t[1])
                for (t[2] = 0; t[2] < p.kernel[2]; ++t[2]) {
                  bool inside = true;
                  for (int a = 0; a < 3; ++a) {
                    u[a] = p.stride[a] * q[a] + p.dilation[a] * t[a] - p.low[a];
                    inside &= u[a] >= 0 && u[a] < p.input[a];
                  }
                  if (!inside) continue;
                  const Index xs = (((n * p.input[0] + u[0]) * p.input[1] + u[1]) * p.input[2] + u[2]) * in;
                  const Index ys = (((n * p.output[0] + q[0]) * p.output[1] + q[1]) * p.output[2] + q[2]) * out;
                  const Index ws = ((t[0] * p.kernel[1] + t[1]) * p.kernel[2] + t[2]) * p.in * out;
                  for (Index g = 0; g < p.groups; ++g)
                    for (Index i = 0; i < p.in; ++i)
                      for (Index o = 0; o < p.out; ++o) {
                        const Index xi = xs + g * p.in + i, yi = ys + g * p.out + o, wi = ws + i * out + g * p.out + o;
                        ry[yi] += double(x[xi]) * w[wi];
                        rx[xi] += double(y[yi]) * w[wi];
                        rw[wi] += double(x[xi]) * y[yi];
                      }
                }
    Numbers gx(x.size(), NAN), gy(y.size(), NAN), gw(w.size(), NAN);
    const auto& kernels = JAXCONV_NAME<Real>();
    kernels.apply(p, x.data(), w.data(), gy.data(), pool);
    kernels.adjoint(p, y.data(), w.data(), gx.data(), pool);
    kernels.kernel(p, x.data(), y.data(), gw.data(), pool);
    auto check = [&](const Numbers& got, const std::vector<double>& want, const char* face) {
      double size = 1;
      for (double value : want) size = std::max(size, std::abs(value));
      for (std::size_t k = 0; k < got.size(); ++k) {
        const double error = std::abs(got[k] - want[k]) / size;
        if (!(error <= (sizeof(Real) == 4 ? 1e-5 : 1e-13))) {
          std::printf("case %d, %s face, element %zu: %g, not %g\n", number, face, k, double(got[k]), want[k]);
          std::exit(1);
        }
        worst = std::max(worst, error);
      }
    };
    check(gy, ry, "apply");
    check(gx, rx, "adjoint");
    check(gw, rw, "kernel");
  }
  std::printf("worst relative error %.2g\n", worst);
}
