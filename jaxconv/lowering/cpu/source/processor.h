// What the processor that runs this can do, and its system lets it.
#pragma once
#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace jaxconv {

#if defined(__x86_64__)
// Asked of the processor itself: `__builtin_cpu_supports` needs a part of the compiler's library that Zig's has not.
struct Processor {
  bool avx2 = false, avx512 = false, pairs = false;  // pairs: products of bfloat16, two at once
  bool matrix = false;                               // tiles of bfloat16

  Processor() {
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return;
    const bool fma = (c & bit_FMA) && (c & bit_F16C);
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));  // the registers that the system keeps for a program
    if (!fma || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    avx2 = (b & bit_AVX2) && (saved & 0x06) == 0x06;
    const char* wanted = std::getenv("JAXCONV_NATIVE");  // for comparisons: what another processor would do
    if (wanted && !std::strcmp(wanted, "avx2")) return;
    avx512 = avx2 && (b & bit_AVX512F) && (saved & 0xe6) == 0xe6;
    const bool words = b & bit_AVX512BW, tiles = (d & 1u << 22) && (d & 1u << 24) && (saved & 0x60000) == 0x60000;
    pairs = avx512 && words && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
    if (wanted && !std::strcmp(wanted, "avx512")) return;
    matrix = pairs && tiles && asked();
  }

 private:
  // Tiles are eight kilobytes of a thread's state: Linux wants to be asked, once for all threads of a program.
  static bool asked() {
#if defined(__linux__)
    constexpr int kRequest = 0x1023, kTiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
    return syscall(SYS_arch_prctl, kRequest, kTiles) == 0;
#else
    return false;
#endif
  }
};

inline const Processor& processor() {
  static const Processor found;
  return found;
}
#endif

}  // namespace jaxconv
