// Runs the kernels of src/kernels on a CPU: launches come in on the standard input, and what they
// wrote goes out on the standard output, until the input ends. Memory that a kernel may not touch
// is not there: it dies of it. Numbers are of the machine's byte order.
#include "cuda.h"

#include "../../src/kernels/fold.cu"

#include "../../src/kernels/picture.cu"

#include "../../src/kernels/copy.cu"

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

constexpr size_t SHARED_MAX = 48 << 10;
constexpr size_t STACK = 64 << 10;
constexpr unsigned char RUBBISH = 0xa5;
uint4 folded[SHARED_MAX / 16 + 64];

[[noreturn]] static void die(const char *why) {
    fprintf(stderr, "host: %s\n", why);
    exit(1);
}

// A block's threads. Contexts only start them; the jumps are quicker, and change no signal mask.
struct Thread {
    ucontext_t start;
    jmp_buf here;
    std::vector<char> stack = std::vector<char>(STACK);
    bool started, done;
    int met;
};
static std::vector<Thread> threads(1024);
static jmp_buf scheduler;
static std::function<void()> body;

static void enter() {
    body();
    threads[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

void meet(int what) {
    Thread &thread = threads[threadIdx.x];
    thread.met = what;
    if (_setjmp(thread.here) == 0) _longjmp(scheduler, 1);
}

static void resume(unsigned index) {
    Thread &thread = threads[index];
    threadIdx = {index, 0, 0};
    if (_setjmp(scheduler) != 0) return;
    if (thread.started) _longjmp(thread.here, 1);
    thread.started = true;
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.data();
    thread.start.uc_stack.ss_size = STACK;
    thread.start.uc_link = nullptr;
    makecontext(&thread.start, enter, 0);
    setcontext(&thread.start);
}

static void run_block() {
    for (unsigned i = 0; i < blockDim.x; ++i) threads[i].started = threads[i].done = false;
    std::fill(turns, turns + 1024, 0u);
    while (!threads[0].done) {
        for (unsigned i = 0; i < blockDim.x; ++i) {
            resume(i);
            if (threads[i].done != threads[0].done || threads[i].met != threads[0].met) {
                die("the threads of a block do not meet at the same barrier");
            }
        }
    }
}

// Memory with a hole behind it, or before it, and `misfit` bytes past a multiple of 16 when the
// hole is before. Behind, the end is flush with the hole.
struct Fenced {
    unsigned char *map;
    size_t mapped;
    unsigned char *at;

    Fenced(size_t bytes, size_t misfit, bool behind) {
        size_t page = size_t(sysconf(_SC_PAGESIZE));
        size_t body_bytes = (bytes + misfit + page - 1) / page * page;
        mapped = body_bytes + 2 * page;
        void *start = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (start == MAP_FAILED) die("no memory");
        map = static_cast<unsigned char *>(start);
        mprotect(map + page, body_bytes, PROT_READ | PROT_WRITE);
        memset(map + page, RUBBISH, body_bytes);
        at = behind ? map + page + body_bytes - bytes : map + page + misfit;
    }
    ~Fenced() { munmap(map, mapped); }
};

static bool read_all(void *to, size_t bytes) { return fread(to, 1, bytes, stdin) == bytes; }

enum Kernel : uint32_t { F32, F16_BITS, COPY };

struct Order {
    uint32_t kernel, grid, block, shared_bytes;
    uint32_t source_misfit, output_misfit, behind, args_bytes;
    uint64_t source_bytes, output_bytes;
};

static void launch(const Order &order, const unsigned char *source, unsigned char *output,
                   const PictureArgs &args) {
    size_t shared = order.shared_bytes;
    if (shared > SHARED_MAX || order.block > threads.size()) die("the geometry is out of bounds");
    gridDim = {order.grid, 1, 1};
    blockDim = {order.block, 1, 1};
    body = [&] {
        if (order.kernel == F32) ferry_picture_f32(source, (float *)output, args);
        else if (order.kernel == F16_BITS) ferry_picture_f16(source, (F16 *)output, args);
        else ferry_copy(source, output, order.source_bytes);
    };
    readable = source;
    readable_end = source + order.source_bytes;
    auto *bytes = (unsigned char *)folded;
    for (unsigned block = 0; block < order.grid; ++block) {
        blockIdx = {block, 0, 0};
        memset(bytes, RUBBISH, sizeof folded);
        run_block();
        for (size_t i = shared; i < sizeof folded; ++i) {
            if (bytes[i] != RUBBISH) die("a block wrote behind its shared memory");
        }
    }
}

int main() {
    Order order;
    while (read_all(&order, sizeof order)) {
        PictureArgs args = {};
        if (order.args_bytes != (order.kernel == COPY ? 0 : sizeof args)) {
            die("the arguments have another size in Rust");
        }
        Fenced source(order.source_bytes, order.source_misfit, order.behind);
        Fenced output(order.output_bytes, order.output_misfit, order.behind);
        if (!read_all(&args, order.args_bytes) || !read_all(source.at, order.source_bytes)) {
            die("the input ends early");
        }
        launch(order, source.at, output.at, args);
        fwrite(output.at, 1, order.output_bytes, stdout);
        fflush(stdout);
    }
}
