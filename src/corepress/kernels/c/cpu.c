/* What the processor has; compiled once, for the baseline. */
#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__x86_64__)
#include <cpuid.h>

/* The registers that the system saves when it switches tasks: instructions without them must not be used. */
static uint32_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has(uint32_t flags, uint32_t wanted) {
    return (flags & wanted) == wanted;
}

/* 0: baseline, 1: AVX2 with FMA and F16C, 2: AVX-512 with F, DQ, BW and VL too. */
EXPORT int corepress_level(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (!has(c, 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29)) return 0; /* FMA, OSXSAVE, AVX, F16C */
    const uint32_t saved = saved_registers();
    if (!has(saved, 0x6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!has(b, 1u << 3 | 1u << 5 | 1u << 8)) return 0; /* BMI1, AVX2, BMI2 */
    return has(saved, 0xE6) && has(b, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) ? 2 : 1;
}
#else
EXPORT int corepress_level(void) {
    return 0;
}
#endif
