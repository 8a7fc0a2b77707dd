// Bytes from one address to another: between mapped host memory and device memory, or within it.
//
// Where both addresses are equally far from a multiple of 16, each thread has 64 bytes under way
// at a time, in 16-byte loads; the bytes before and behind those are copied one by one, as all
// are where the addresses differ. Compiled by NVRTC without headers, and for the CPU in the tests.

constexpr int COPY_BATCH = 4;

extern "C" __global__ void __launch_bounds__(256)
    ferry_copy(const unsigned char *__restrict__ from, unsigned char *__restrict__ to,
               unsigned long long bytes) {
    unsigned long long thread = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long threads = (unsigned long long)gridDim.x * blockDim.x;
    unsigned long long misfit = ((unsigned long long)from ^ (unsigned long long)to) & 15;
    unsigned long long head = misfit ? bytes : (16 - ((unsigned long long)from & 15)) & 15;
    if (head > bytes) head = bytes;
    unsigned long long vectors = (bytes - head) / 16;
    const uint4 *vector_from = (const uint4 *)(from + head);
    uint4 *vector_to = (uint4 *)(to + head);
    for (unsigned long long at = thread; at < vectors; at += threads * COPY_BATCH) {
        uint4 batch[COPY_BATCH];
#pragma unroll
        for (int i = 0; i < COPY_BATCH; ++i) {
            if (at + i * threads < vectors) batch[i] = __ldg(vector_from + at + i * threads);
        }
#pragma unroll
        for (int i = 0; i < COPY_BATCH; ++i) {
            if (at + i * threads < vectors) vector_to[at + i * threads] = batch[i];
        }
    }
    for (unsigned long long at = thread; at < head; at += threads) to[at] = from[at];
    for (unsigned long long at = head + vectors * 16 + thread; at < bytes; at += threads) {
        to[at] = from[at];
    }
}
