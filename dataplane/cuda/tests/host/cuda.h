// What CUDA C++ has and C++ has not, for the kernels of src/kernels on a CPU. One block runs at a
// time, each of its threads on a stack of its own, in turns: from one barrier or exchange to the
// next. So a barrier that some threads miss is found, and so is what is read before it was
// written, because shared memory starts as rubbish.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(threads)

using std::abs;
using std::max;
using std::min;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct Dim {
    unsigned x, y, z;
};

inline Dim threadIdx, blockIdx, blockDim, gridDim;

// Waits for all threads of the block; `what` must be the same for all.
void meet(int what);
// What the exchange moves: a row for this turn, and one for the turn before, which others still
// read; and how many turns each thread of the block has had.
inline unsigned exchanged[2][1024];
inline unsigned turns[1024];

inline void __syncthreads() { meet(0); }

inline unsigned __shfl_down_sync(unsigned lanes, unsigned value, unsigned delta) {
    unsigned thread = threadIdx.x, lane = thread % 32;
    if (lanes != 0xffffffffu) abort();
    unsigned *row = exchanged[turns[thread]++ % 2];
    row[thread] = value;
    meet(1);
    return lane + delta < 32 ? row[thread + delta] : value;
}

// What the kernel may read: memory's holes lie at whole pages, and would not notice 15 bytes.
inline const unsigned char *readable, *readable_end;

inline uint4 __ldg(const uint4 *from) {
    auto *bytes = (const unsigned char *)from;
    if ((unsigned long long)from % 16 != 0 || bytes < readable || bytes + 16 > readable_end) {
        abort();
    }
    return *from;
}

// The build says -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
