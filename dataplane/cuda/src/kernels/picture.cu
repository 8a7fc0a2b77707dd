// A raw picture to a model's input: resize, channel order, normalisation, layout, in one launch.
//
// It computes what ferry-vision computes on a CPU, to the bit: the same fixed-point weights, the
// same rounding to 8 bits between the two passes, multiplication and addition without contraction.
// `picture.rs` makes the arguments and the geometry, checks them, and says what it costs.
//
// A block makes `rows` rows of the output. First its threads fold the source rows that those need
// into as many rows of bytes in shared memory (the vertical pass), each thread over 16 bytes of
// the row; every source row is read once per block. Then they resample those rows horizontally.
// Compiled by NVRTC without headers, and for the CPU in the tests: see `tests/host`.

// Binary16, to nearest, ties to even. Finite numbers times and plus others never make a NaN here.
__device__ unsigned short half_bits(float value) {
    unsigned bits = __float_as_uint(value);
    unsigned sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x477ff000) return (unsigned short)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        // Below 2^-14: the last bit is worth 2^-24. Adding 0.5 lets the float unit round there.
        float rounded = __fadd_rn(__uint_as_float(magnitude), 0.5f);
        return (unsigned short)(sign | (__float_as_uint(rounded) - 0x3f000000));
    }
    unsigned odd = magnitude >> 13 & 1;
    return (unsigned short)(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
}

struct F16 {
    unsigned short bits;
};

__device__ void store(float *out, float value) { *out = value; }
__device__ void store(F16 *out, float value) { out->bits = half_bits(value); }

// One pixel of the output, of a row that was folded. Grey stands three times.
__device__ void across(const PictureArgs &args, const Axis &axis, const unsigned char *row, int x,
                       unsigned pixel[3]) {
    int channels = int(args.source_channels);
    if (args.nearest) {
        double step = double(axis.source) / double(axis.target);
        int at = int(__dadd_rn(__dmul_rn(step, 0.5), __dmul_rn(step, double(x))));
        const unsigned char *from = row + min(at, axis.source - 1) * channels;
        pixel[0] = from[0];
        pixel[1] = channels == 3 ? from[1] : from[0];
        pixel[2] = channels == 3 ? from[2] : from[0];
        return;
    }
    Window window = axis.window(x);
    int sums[3] = {axis.half(), axis.half(), axis.half()};
    const unsigned char *from = row + window.first * channels;
    for (int at = window.first; at < window.end; ++at, from += channels) {
        int weight = axis.weight(window, at);
        sums[0] += weight * from[0];
        if (channels == 3) {
            sums[1] += weight * from[1];
            sums[2] += weight * from[2];
        }
    }
    pixel[0] = axis.level(sums[0]);
    pixel[1] = channels == 3 ? axis.level(sums[1]) : pixel[0];
    pixel[2] = channels == 3 ? axis.level(sums[2]) : pixel[0];
}

template <typename Out>
__device__ void picture(const unsigned char *bytes, Out *out, const PictureArgs &args) {
    unsigned row_bytes = args.source_width * args.source_channels;
    unsigned chunks = (row_bytes + 15) / 16;
    int top = int(blockIdx.x * args.rows);
    int rows = min(int(args.rows), int(args.height) - top);
    Axis down(args.source_height, args.height, args.precision_y);
    unsigned lane = threadIdx.x % 32;
    unsigned per_turn = blockDim.x / 32 * CHUNKS_PER_WARP;
    unsigned own = threadIdx.x / 32 * CHUNKS_PER_WARP + lane;
    // All threads take every turn: they exchange what they load.
    for (unsigned turn = 0; turn < chunks; turn += per_turn) {
        unsigned chunk = turn + own;
        unsigned long long len = (unsigned long long)row_bytes * args.source_height;
        Source source = {bytes, len, row_bytes, chunk};
        Fold fold = {folded + chunk, chunks, lane < CHUNKS_PER_WARP && chunk < chunks};
        if (args.nearest) pick(down, source, fold, top, rows);
        else if (down.source >= down.target) shrink(down, source, fold, top, rows);
        else stretch(down, source, fold, top, rows);
    }
    __syncthreads();
    Axis along(args.source_width, args.width, args.precision_x);
    unsigned plane = args.width * args.height;
    for (unsigned i = threadIdx.x; i < unsigned(rows) * args.width; i += blockDim.x) {
        unsigned row = i / args.width, x = i % args.width;
        unsigned pixel[3];
        across(args, along, (const unsigned char *)(folded + row * chunks), int(x), pixel);
        unsigned at = (unsigned(top) + row) * args.width + x;
        unsigned first = args.swap ? pixel[2] : pixel[0], last = args.swap ? pixel[0] : pixel[2];
        if (args.channels == 1 && args.source_channels == 3) {
            first = (19595 * first + 38470 * pixel[1] + 7471 * last + (1 << 15)) >> 16;
        }
        unsigned levels[3] = {first, pixel[1], last};
#pragma unroll
        for (unsigned c = 0; c < 3; ++c) {
            if (c >= args.channels) break;
            float value = __fadd_rn(__fmul_rn(float(levels[c]), args.factor[c]), args.offset[c]);
            store(out + (args.planar ? c * plane + at : at * args.channels + c), value);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    ferry_picture_f32(const unsigned char *bytes, float *out, const PictureArgs args) {
    picture(bytes, out, args);
}

extern "C" __global__ void __launch_bounds__(256)
    ferry_picture_f16(const unsigned char *bytes, F16 *out, const PictureArgs args) {
    picture(bytes, out, args);
}
