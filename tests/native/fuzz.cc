// Random geometries through the kernels under the sanitizers, against the definition; sizes that lie about the buffers,
// which must be refused; and allocations that fail at any moment. Arguments: seed, cases.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "stored.h"
#include "work.h"

using namespace jaxconv;
namespace jaxconv {
template <class T>
const Kernels<T>& JAXCONV_NAME();
}
using Numbers = std::vector<Stored>;  // exactly as large as the array, so that any access beside it is caught

// A number as it is when it has been written and read again.
double written(double value) {
  Stored number;
  round_to(number, static_cast<Real>(value));
  return widened(number);
}

// Allocations that still succeed.
std::atomic<long> left{LONG_MAX};

void* allocate(std::size_t bytes, std::size_t align) {
  if (left.fetch_sub(1) <= 0) throw std::bad_alloc();
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max<std::size_t>(align, sizeof(void*)), bytes)) throw std::bad_alloc();
  return memory;
}
void* operator new(std::size_t bytes) { return allocate(bytes, 16); }
void* operator new(std::size_t bytes, std::align_val_t align) { return allocate(bytes, std::size_t(align)); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

[[noreturn]] void fail(const std::string& why) {
  std::printf("%s\n", why.c_str());
  std::exit(1);
}

using Random = std::mt19937;

Index elements(const std::vector<Index>& shape) {
  Index count = 1;
  for (Index size : shape) count *= size;
  return count;
}

// Every number of a right description changed by itself: what contradicts the buffers is refused, what does not is not.
void lie(const Problem& p, int rank, Random& random) {
  std::vector<Index> sizes;
  for (auto* part : {&p.input, &p.kernel, &p.output, &p.stride, &p.dilation, &p.low})
    sizes.insert(sizes.end(), part->begin(), part->end());
  for (Index size : {p.groups, p.in, p.out, p.batch}) sizes.push_back(size);
  sizes.push_back(0);
  const Index most = Index{1} << 40;
  std::vector<std::vector<Index>> shapes(3);  // x, y, w
  shapes[0] = shapes[1] = {p.batch};
  for (int a = 3 - rank; a < 3; ++a) {
    shapes[0].push_back(p.input[a]);
    shapes[1].push_back(p.output[a]);
    shapes[2].push_back(p.kernel[a]);
  }
  shapes[0].push_back(p.groups * p.in);
  shapes[1].push_back(p.groups * p.out);
  shapes[2].push_back(p.in);
  shapes[2].push_back(p.groups * p.out);
  const int order[3][3] = {{0, 2, 1}, {1, 2, 0}, {0, 1, 2}};
  for (int face = 0; face < 3; ++face) {
    auto refused = [&](const std::vector<Index>& said) {
      Shape at[3];
      for (int k = 0; k < 3; ++k) {
        const auto& shape = shapes[order[face][k]];
        at[k] = {shape.data(), static_cast<Index>(shape.size())};
      }
      return fault(problem_of(said.data()), static_cast<Face>(face), at[0], at[1], at[2]) != nullptr;
    };
    if (refused(sizes)) fail("a right description is refused");
    for (int k = 0; k < kSizes; ++k) {
      const Index was = sizes[k];
      for (Index lie : {Index{0}, Index{-1}, was + 1, was - 1, 2 * was, was + (Index{1} << 32), most + 1, -most - 1,
                        Index{INT64_MAX}, Index{INT64_MIN}, static_cast<Index>(random())}) {
        if (lie == was) continue;
        sizes[k] = lie;
        const bool spacing = k >= 9 && k < 15, pad = k >= 15 && k < 18;
        const bool legal = k == kSizes - 1 || (spacing && lie >= 1 && lie <= most / 128) || (pad && lie >= -most && lie <= most);
        const bool free = spacing && lie > most / 128 && lie <= most;  // the sum of two products decides
        if (!free && refused(sizes) == legal)
          fail("size " + std::to_string(k) + ", " + std::to_string(was) + " called " + std::to_string(lie));
      }
      sizes[k] = was;
    }
    for (auto& shape : shapes) {
      const auto right = shape;
      for (std::size_t k = 0; k < right.size(); ++k) {
        shape[k] += 1;
        if (!refused(sizes)) fail("a buffer of another shape is accepted");
        shape = right;
      }
      for (std::size_t count : {0u, 1u, static_cast<unsigned>(right.size()) - 1, static_cast<unsigned>(right.size()) + 1}) {
        shape.resize(count, 1);
        // Axes of one element may be left out: what counts is that the kernels find every element they read.
        if (!refused(sizes) && elements(shape) != elements(right)) fail("a buffer of another rank is accepted");
        shape = right;
      }
    }
  }
}

// Threads of a pool that is made for each call.
Pool threads_of(Index threads) {
  Pool pool;
  pool.threads = threads;
  pool.run = [threads](Index count, const std::function<void(Index)>& task) {
    std::vector<std::thread> started;
    started.reserve(threads);
    struct Join {
      std::vector<std::thread>& all;
      ~Join() {
        for (auto& thread : all) thread.join();
      }
    } join{started};
    share(threads - 1, count, task, [&](auto help) { started.emplace_back(help); });
  };
  return pool;
}

// Exceptions reach the caller, whichever thread they began in.
void throwing(Random& random) {
  for (int round = 0; round < 50; ++round) {
    const Index count = 1 + random() % 40, bad = random() % count;
    std::atomic<Index> ran{0};
    try {
      threads_of(1 + random() % 4).run(count, [&](Index k) {
        ++ran;
        if (k == bad) throw std::runtime_error("task");
      });
      fail("an exception was lost");
    } catch (const std::runtime_error&) {
    }
    if (ran != count) fail("tasks were left out");
  }
  const std::function<void(Index)> nothing = [](Index) {};
  share(3, 9, nothing, [](auto) { throw std::bad_alloc(); });  // a pool that takes nothing
  share(3, 9, nothing, [](auto) {});                           // a pool whose threads are gone
}

// A helper moves from its caller's core where it may run on others, and may run afterwards where it might before.
void leaving() {
#if defined(__linux__)
  cpu_set_t before, after;
  if (sched_getaffinity(0, sizeof(before), &before) != 0) return;
  int moved = 0;
  for (int round = 0; round < 20; ++round) {
    const int core = this_core();
    leave(core + 1);  // another's
    leave(core);
    moved += this_core() != core;
    sched_getaffinity(0, sizeof(after), &after);
    if (!CPU_EQUAL(&before, &after)) fail("a thread may no longer run where it might");
  }
  if (moved == 0 && CPU_COUNT(&before) > 1) fail("a helper stays on its caller's core");
#endif
}

// Every half-precision number is widened exactly and rounded back to itself; floats go to the nearest one, ties to the
// even one, a vector's as a single one does.
void rounding(Random& random) {
#if defined(JAXCONV_STORED)
  const bool brain = std::is_same_v<Stored, Bfloat16>;
  const int fraction = brain ? 7 : 10, least = brain ? -133 : -24;  // the exponent of the smallest number
  const double most = brain ? (2 - 0x1p-7) * 0x1p127 : 65504;
  auto exact = [&](std::uint16_t bits) {
    const int exponent = bits >> fraction & (0x7fff >> fraction), rest = bits & ((1 << fraction) - 1);
    const double size = exponent == 0x7fff >> fraction ? (rest ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(rest, least)
                                        : std::ldexp(rest + (1 << fraction), least + exponent - 1);
    return bits & 0x8000 ? -size : size;
  };
  auto same = [](double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); };
  for (int start = 0; start < 65536; start += kLanes) {
    Stored from[kLanes], to[kLanes];
    for (int k = 0; k < kLanes; ++k) from[k].bits = static_cast<std::uint16_t>(start + k);
    const Vec wide = load(from);
    store(to, wide);
    for (int k = 0; k < kLanes; ++k) {
      const double want = exact(from[k].bits);
      Stored one;
      round_to(one, widened(from[k]));
      if (!same(widened(from[k]), want) || !same(wide[k], want)) fail("a half is widened wrongly");
      if (!same(exact(to[k].bits), want) || !same(exact(one.bits), want)) fail("a half is not rounded to itself");
    }
  }
  for (int round = 0; round < 100000; ++round) {
    Real from[kLanes];
    Stored to[kLanes];
    for (Real& value : from) {
      std::uint32_t bits = random();
      if (round % 2) bits = (bits & 0x80000000u) | ((brain ? 0u : 100u) + bits % 50) << 23 | (bits & 0x7fffffu);
      if (round % 3 == 0) bits &= ~0u << (brain ? 15 : 12);  // ties
      value = bits_as<Real>(bits);
    }
    Vec wide;
    std::memcpy(&wide, from, sizeof(wide));
    store(to, wide);
    for (int k = 0; k < kLanes; ++k) {
      Stored one;
      round_to(one, from[k]);
      const double value = from[k], got = exact(to[k].bits);
      if (!same(got, exact(one.bits))) fail("a vector is rounded otherwise than its numbers");
      if (std::isnan(value) != std::isnan(got)) fail("what is no number has become one, or the reverse");
      if (std::isnan(value)) continue;
      const double unit = std::ldexp(1.0, std::max(std::ilogb(value == 0 ? 1e-300 : value) - fraction, least));
      double want = std::isinf(value) ? value : std::nearbyint(value / unit) * unit;
      if (std::abs(want) > most) want = std::copysign(INFINITY, value);
      if (want != got) fail("a number is not rounded to the nearest: " + std::to_string(value));
    }
  }
#endif
  (void)random;
}

// Results with an epilogue against those without one.
void finish(const Problem& p, const Numbers& x, const Numbers& y, const Numbers& w, const Numbers& gx, const Numbers& gy,
            const Pool& pool, Random& random) {
  std::normal_distribution<Real> normal;
  for (bool transposed : {false, true}) {
    const Numbers& plain = transposed ? gx : gy;
    const Index channels = p.groups * (transposed ? p.in : p.out);
    std::vector<Real> scale(channels, 1), bias(channels), slope(channels);
    Numbers residual(plain.size()), got(plain.size());
    for (Stored& value : residual) round_to(value, normal(random));
    Epilogue<Stored> e;
    for (auto [to, array] : {std::pair{&e.scale, &scale}, {&e.bias, &bias}, {&e.slope, &slope}}) {
      if (random() % 3 == 0) continue;
      for (Real& value : *array) value = normal(random);
      *to = array->data();
    }
    e.rectify = !e.slope && random() % 2;
    if (random() % 2) e.residual = residual.data();
    if (random() % 2) e.most = 1;
    const auto& kernels = JAXCONV_NAME<Stored>();
    if (transposed) {
      kernels.adjoint(p, y.data(), w.data(), got.data(), pool, &e);
    } else {
      kernels.apply(p, x.data(), w.data(), got.data(), pool, &e);
    }
    for (std::size_t k = 0; k < got.size(); ++k) {
      const Index c = k % channels;
      const double before = widened(plain[k]), other = e.residual ? widened(residual[k]) : 0;
      double want = before * scale[c] + bias[c] + other;
      if (want < 0 && (e.rectify || e.slope)) want = e.rectify ? 0 : want * slope[c];
      want = want > e.most ? e.most : want;
      // Half precision is not rounded in between.
      const double half = std::is_same_v<Stored, Bfloat16> ? 0x1p-8 : 0x1p-11;
      const double value = widened(got[k]), unit = sizeof(Stored) == 2 ? half : sizeof(Real) == 4 ? 0x1p-22 : 0x1p-51;
      const double least = std::is_same_v<Stored, Float16> ? 0x1p-24 : 0;  // its smallest numbers are so far apart
      const double size = std::abs(before * scale[c]) + std::abs(bias[c]) + std::abs(other);
      const double most = (1 + std::abs(slope[c])) * (unit * size + least * std::abs(scale[c]));
      if (std::isnan(want) ? std::isnan(value) : value == written(want)) continue;
      if (!(value >= written(want - most) && value <= written(want + most)))
        fail("an epilogue gives " + std::to_string(value) + ", not " + std::to_string(want));
    }
  }
}

int main(int, char** words) {
  Random random(std::atoi(words[1]));
  throwing(random);
  leaving();
  rounding(random);
  auto pick = [&](Index low, Index high) { return low + static_cast<Index>(random() % (high - low + 1)); };
  double worst = 0;
  long failed = 0;
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
    if (number % 5 == 0) {  // numbers that no operand is as large as
      const int a = static_cast<int>(pick(3 - rank, 2));
      auto& part = *(std::array<Index, 3>*[]){&p.stride, &p.dilation, &p.low}[pick(0, 2)];
      part[a] = &part == &p.low ? pick(-1, 1) * (Index{1} << pick(30, 36)) : Index{1} << pick(20, 33);
    }
    if (number % 10 == 0) lie(p, rank, random);
    p.plain = pick(0, 3) == 0;
    const Pool pool = threads_of(pick(1, 3));
    auto volume = [](const std::array<Index, 3>& s) { return s[0] * s[1] * s[2]; };
    const Index in = p.groups * p.in, out = p.groups * p.out;
    Numbers x(p.batch * volume(p.input) * in), y(p.batch * volume(p.output) * out), w(p.taps() * p.in * out);
    std::normal_distribution<Real> normal;
    for (auto* array : {&x, &y, &w})
      for (Stored& value : *array) round_to(value, normal(random));
    const bool hostile = number % 4 == 0;
    if (hostile) {  // what is not finite in the data stays where it belongs
      for (Index some = pick(1, 3); some-- > 0;) {
        Numbers& array = pick(0, 1) ? x : y;
        round_to(array[random() % array.size()], Real((double[]){NAN, INFINITY, -INFINITY}[pick(0, 2)]));
      }
    }
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
                        ry[yi] += double(widened(x[xi])) * widened(w[wi]);
                        rx[xi] += double(widened(y[yi])) * widened(w[wi]);
                        rw[wi] += double(widened(x[xi])) * widened(y[yi]);
                      }
                }
    Stored none;
    round_to(none, Real(NAN));
    Numbers gx(x.size(), none), gy(y.size(), none), gw(w.size(), none);
    const auto& kernels = JAXCONV_NAME<Stored>();
    kernels.apply(p, x.data(), w.data(), gy.data(), pool, nullptr);
    kernels.adjoint(p, y.data(), w.data(), gx.data(), pool, nullptr);
    kernels.kernel(p, x.data(), y.data(), gw.data(), pool);
    if (number % 2 == 0) {  // the number of threads changes no bit
      Numbers hx(x.size(), none), hy(y.size(), none), hw(w.size(), none);
      const Pool other = threads_of(5 - pool.threads);
      kernels.apply(p, x.data(), w.data(), hy.data(), other, nullptr);
      kernels.adjoint(p, y.data(), w.data(), hx.data(), other, nullptr);
      kernels.kernel(p, x.data(), y.data(), hw.data(), other);
      auto same = [](const Numbers& a, const Numbers& b) {
        return !std::memcmp(a.data(), b.data(), sizeof(Stored) * a.size());
      };
      if (!same(gx, hx) || !same(gy, hy) || !same(gw, hw))
        fail("case " + std::to_string(number) + ": another number of threads, another result");
    }
    if (number % 3 != 1) finish(p, x, y, w, gx, gy, pool, random);
    if (number % 3 == 0) {
      Numbers hx(x.size()), hy(y.size()), hw(w.size());
      for (int face = 0; face < 3; ++face) {
        const Index until = pick(0, 60);
        left = until;
        try {
          if (face == 0) kernels.apply(p, x.data(), w.data(), hy.data(), pool, nullptr);
          if (face == 1) kernels.adjoint(p, y.data(), w.data(), hx.data(), pool, nullptr);
          if (face == 2) kernels.kernel(p, x.data(), y.data(), hw.data(), pool);
        } catch (const std::bad_alloc&) {
          ++failed;
        }
        left = LONG_MAX;
      }
    }
    auto check = [&](const Numbers& got, const std::vector<double>& want, const char* face) {
      double size = 1;
      for (double value : want)
        if (std::isfinite(value)) size = std::max(size, std::abs(value));
      for (std::size_t k = 0; k < got.size(); ++k) {
        // Half precision is rounded once, at the end: to a neighbour only where the sum's own error leads there.
        const double most = (sizeof(Real) == 4 ? 1e-5 : 1e-13) * size, value = widened(got[k]);
        if (!std::isfinite(want[k]) && (std::isnan(want[k]) ? std::isnan(value) : value == want[k])) continue;
        if (hostile && &got == &gw && std::isnan(value)) continue;  // zeros beside the data may meet it there
        if (!(value >= written(want[k] - most) && value <= written(want[k] + most))) {
          std::printf("case %d, %s face, element %zu: %g, not %g\n", number, face, k, value, want[k]);
          std::exit(1);
        }
        worst = std::max(worst, std::abs(value - written(want[k])) / size);
      }
    };
    check(gy, ry, "apply");
    check(gx, rx, "adjoint");
    check(gw, rw, "kernel");
  }
  if (failed == 0) fail("no allocation failed");
  std::printf("worst relative error %.2g, %ld failed allocations came back as exceptions\n", worst, failed);
}
