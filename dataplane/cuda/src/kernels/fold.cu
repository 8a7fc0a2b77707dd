// The vertical pass of picture.cu, which NVRTC gets behind this in one text.

// Mirrors `PictureArgs` in picture.rs. Sides are 1 to 16384, so that the products of two sides
// below fit in 31 bits.
struct PictureArgs {
    unsigned source_width;
    unsigned source_height;
    unsigned source_channels; // 1 or 3
    unsigned width;
    unsigned height;
    unsigned channels;    // 1 or 3
    unsigned nearest;     // 0: bilinear, antialiased
    unsigned swap;        // the first channel of the source is the last that is wanted
    unsigned planar;      // 1: channel, row, column; 0: row, column, channel
    unsigned precision_x; // bits of the weights after the point
    unsigned precision_y;
    unsigned rows; // of the output, per block
    float factor[3];
    float offset[3];
};

constexpr unsigned ALL_LANES = 0xffffffffu;
// The last lane of a warp loads what the one before it needs of the next 16 bytes, no more.
constexpr unsigned CHUNKS_PER_WARP = 31;
// Source rows that a thread has under way at a time: 64 bytes, to hide the way to memory.
constexpr int BATCH = 4;

// R rows of ceil(source_width × source_channels / 16) chunks.
extern __shared__ uint4 folded[];

struct Chunk {
    unsigned word[4];
};

// What one output index takes of the source along one axis. In units of 1 / (2 × target), source
// pixel x lies `2 × target × x − centre` from it, and weighs `reach` less that, while positive.
struct Window {
    int first;
    int end;
    int centre;
    int sum;     // of the weights
    float share; // of the weight 1 in all of them, in fixed point, nearly
};

struct Axis {
    int source;
    int target;
    int reach;
    int precision;

    __device__ Axis(unsigned source_, unsigned target_, unsigned precision_)
        : source(int(source_)), target(int(target_)),
          reach(2 * int(source_ > target_ ? source_ : target_)), precision(int(precision_)) {}

    // The distances of the pixels from `first` up to `end`, added up.
    __device__ int distances(int first, int end, int centre) const {
        return (end - first) * (target * (first + end - 1) - centre);
    }

    __device__ Window window(int index) const {
        int step = 2 * target;
        int centre = (2 * index + 1) * source - target;
        int first = centre >= reach ? (centre - reach) / step + 1 : 0;
        int end = min(source, (centre + reach + step - 1) / step);
        int middle = centre > 0 ? min(end, (centre + step - 1) / step) : 0;
        int left = distances(first, middle, centre), right = distances(middle, end, centre);
        int sum = reach * (end - first) + left - right;
        return {first, end, centre, sum, float(1 << precision) / float(sum)};
    }

    // The share of source pixel `at`, in fixed point, rounded half up. The float is off by one at
    // the most; the remainder tells.
    __device__ int weight(const Window &window, int at) const {
        int part = reach - abs(2 * target * at - window.centre);
        int share = int(float(part) * window.share + 0.5f);
        long long twice = 2ll * window.sum;
        long long rest = (2ll * part << precision) + window.sum - share * twice;
        return share + (rest >= twice) - (rest < 0);
    }

    __device__ int half() const { return 1 << (precision - 1); }

    // The weights may add up to a little more than one.
    __device__ unsigned level(int sum) const { return unsigned(min(sum >> precision, 255)); }
};

// The picture as 16-byte chunks of its rows, whatever their alignment.
struct Source {
    const unsigned char *bytes;
    unsigned long long len;
    unsigned row_bytes;
    unsigned chunk;

    __device__ const unsigned char *row(int y) const {
        return bytes + (unsigned long long)y * row_bytes;
    }

    __device__ unsigned shift(int y) const { return unsigned((unsigned long long)row(y) & 15); }

    // The aligned 16 bytes in which this thread's chunk of row `y` begins. Nothing outside of the
    // picture is read.
    __device__ uint4 load(int y) const {
        unsigned shift_bytes = shift(y);
        long long begin = (long long)y * row_bytes - shift_bytes + 16ll * chunk;
        if (16ll * chunk >= (long long)row_bytes + shift_bytes) return {0, 0, 0, 0};
        if (begin >= 0 && begin + 16 <= (long long)len) {
            return __ldg((const uint4 *)(bytes + begin));
        }
        unsigned long long half[2] = {0, 0};
#pragma unroll
        for (int part = 0; part < 2; ++part) {
#pragma unroll 1
            for (int i = 7; i >= 0; --i) {
                long long at = begin + 8 * part + i;
                half[part] = half[part] << 8 | (at >= 0 && at < (long long)len ? bytes[at] : 0);
            }
        }
        return {unsigned(half[0]), unsigned(half[0] >> 32), unsigned(half[1]),
                unsigned(half[1] >> 32)};
    }

    // This thread's chunk of row `y`: the end of what it loaded and the beginning of what the next
    // lane did. All lanes must come here together.
    __device__ Chunk align(uint4 own, int y) const {
        unsigned shift_bytes = shift(y);
        unsigned word[8] = {own.x, own.y, own.z, own.w, 0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 4; ++i) word[i + 4] = __shfl_down_sync(ALL_LANES, word[i], 1);
#pragma unroll
        for (int i = 0; i < 6; ++i) word[i] = shift_bytes & 8 ? word[i + 2] : word[i];
#pragma unroll
        for (int i = 0; i < 5; ++i) word[i] = shift_bytes & 4 ? word[i + 1] : word[i];
        Chunk chunk_bytes;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            unsigned long long both = (unsigned long long)word[i + 1] << 32 | word[i];
            chunk_bytes.word[i] = unsigned(both >> (8 * (shift_bytes & 3)));
        }
        return chunk_bytes;
    }
};

struct Sums {
    int of[16];

    __device__ void reset(int value) {
#pragma unroll
        for (int i = 0; i < 16; ++i) of[i] = value;
    }

    __device__ void add(const Chunk &chunk, int weight) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            of[i] += weight * int(chunk.word[i / 4] >> (8 * (i % 4)) & 255);
        }
    }

    __device__ Chunk levels(const Axis &axis) const {
        Chunk chunk = {{0, 0, 0, 0}};
#pragma unroll
        for (int i = 0; i < 16; ++i) chunk.word[i / 4] |= axis.level(of[i]) << (8 * (i % 4));
        return chunk;
    }
};

// Where a thread puts its chunk of each row; nowhere for the last lane and behind the row's end.
struct Fold {
    uint4 *column;
    unsigned chunks;
    bool writes;

    __device__ void put(int row, const Chunk &chunk) const {
        const unsigned *word = chunk.word;
        if (writes) column[unsigned(row) * chunks] = {word[0], word[1], word[2], word[3]};
    }
};

// Fewer rows than the source has, or as many: a source row belongs to two output rows at most.
__device__ void shrink(const Axis &axis, const Source &source, const Fold &fold, int top,
                       int rows) {
    Window now = axis.window(top), next = axis.window(min(top + 1, axis.target - 1));
    int end = axis.window(top + rows - 1).end;
    int row = 0;
    Sums sums, sums_next;
    sums.reset(axis.half());
    sums_next.reset(axis.half());
    for (int begin = now.first; begin < end; begin += BATCH) {
        uint4 loaded[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            loaded[i] = begin + i < end ? source.load(begin + i) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            int y = begin + i;
            if (y >= end) break;
            Chunk chunk = source.align(loaded[i], y);
            sums.add(chunk, axis.weight(now, y));
            if (y >= next.first) sums_next.add(chunk, axis.weight(next, y));
            if (y + 1 < now.end) continue;
            fold.put(row++, sums.levels(axis));
            sums = sums_next;
            sums_next.reset(axis.half());
            now = next;
            next = axis.window(min(top + row + 1, axis.target - 1));
        }
    }
}

// More rows than the source has: each output row lies between two source rows, or on one.
__device__ void stretch(const Axis &axis, const Source &source, const Fold &fold, int top,
                        int rows) {
    int y = axis.window(top).first;
    Chunk above = {{0, 0, 0, 0}}, below = source.align(source.load(y), y);
    for (int row = 0; row < rows; ++row) {
        Window window = axis.window(top + row);
        for (; y + 1 < window.end; ++y) {
            above = below;
            below = source.align(source.load(y + 1), y + 1);
        }
        Sums sums;
        sums.reset(axis.half());
        if (window.first < y) sums.add(above, axis.weight(window, y - 1));
        sums.add(below, axis.weight(window, y));
        fold.put(row, sums.levels(axis));
    }
}

// The CPU adds the step up from row to row, and where a centre lies between two source rows the
// sum's rounding decides which is taken: so does this, however far down the block is.
__device__ void pick(const Axis &axis, const Source &source, const Fold &fold, int top, int rows) {
    double step = double(axis.source) / double(axis.target);
    double at = __dmul_rn(step, 0.5);
    for (int row = 0; row < top; ++row) at = __dadd_rn(at, step);
    for (int begin = 0; begin < rows; begin += BATCH) {
        uint4 loaded[BATCH];
        int y[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            y[i] = min(int(at), axis.source - 1);
            loaded[i] = begin + i < rows ? source.load(y[i]) : uint4{0, 0, 0, 0};
            at = __dadd_rn(at, step);
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            if (begin + i >= rows) break;
            fold.put(begin + i, source.align(loaded[i], y[i]));
        }
    }
}
