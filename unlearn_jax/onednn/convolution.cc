// Convolutions of oneDNN as calls of XLA's foreign function interface (FFI), on CPU.
//
// Images NHWC, kernels HWIO, outputs NHWC, all float32 or all bfloat16. Three calls:
//
//   forward     outputs(images, kernel)
//   of_images   the gradient by the images, from the outputs' gradient and the kernel
//   of_kernel   the gradient by the kernel, from the images and the outputs' gradient
//
// A call is divided into blocks of images. Each block is one oneDNN primitive that runs
// on one thread; the calling thread and threads of XLA's own pool take blocks until none
// is left. So there is one pool of threads and not two, devices of a pmap share it, and
// OpenMP never starts a thread. How a call is divided depends on its shapes only, and
// the partial gradients of a kernel are added in order: the bits of a result do not
// depend on the number of threads, of devices, or on who took which block.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>

#include "xla/ffi/api/ffi.h"

#if DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_OMP && \
    DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_SEQ
#error "oneDNN must be built for OpenMP, or without threads"
#endif

namespace {

namespace ffi = xla::ffi;
using dnnl::algorithm;
using dnnl::memory;
using Dims = memory::dims;
using Ints = ffi::Span<const int64_t>;

enum class Kind : int64_t { kForward, kOfImages, kOfKernel };

// Never destroyed: threads of XLA may outlive static objects.
const dnnl::engine& Engine() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

// One OpenMP thread for what oneDNN creates and runs on this thread, as long as this
// object lives.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  const int before_;
};

// Memory of a thread that grows to the largest size asked for.
class Buffer {
 public:
  void* Get(size_t size) {
    if (size > size_) {
      size_ = (size + 63) / 64 * 64;
      data_.reset(std::aligned_alloc(64, size_));
      if (!data_) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  size_t size_ = 0;
};

// Shape of a call, whatever its kind.
struct Problem {
  int64_t batch, height, width, in, rows, columns, out, high, wide;
  int64_t strides[2], before[2], after[2];
  memory::data_type type;

  int64_t InputsOfImage() const { return height * width * in; }
  int64_t OutputsOfImage() const { return high * wide * out; }
  int64_t SizeOfKernel() const { return rows * columns * in * out; }
  int64_t SizeOfType() const { return type == memory::data_type::f32 ? 4 : 2; }
};

// What oneDNN runs for one block.
struct Plan {
  dnnl::primitive primitive;
  memory::desc images, kernel, outputs, scratch;
};

// Images of a block; depends on shapes only, as the bits do.
int64_t ImagesOfBlock(Kind kind, const Problem& p) {
  const int64_t image = (p.InputsOfImage() + p.OutputsOfImage()) * p.SizeOfType();
  const int64_t kernel = p.SizeOfKernel() * p.SizeOfType();
  int64_t blocks;
  if (kind == Kind::kOfKernel) {
    // every block has a gradient of its own, which is written and added up
    blocks = std::clamp<int64_t>(p.batch * image / (8 * kernel), 2, 16);
  } else {
    // what a block reads and writes stays in a core's cache, and pays for its kernel
    blocks = p.batch * image / std::max<int64_t>(1 << 20, 2 * kernel);
    blocks = std::max<int64_t>(blocks, 8);
  }
  // a few microseconds' work is not worth dividing
  const int64_t products = p.batch * p.OutputsOfImage() * p.rows * p.columns * p.in;
  blocks = std::min({blocks, p.batch, std::max<int64_t>(products >> 18, 1)});
  return (p.batch + blocks - 1) / blocks;
}

Plan Create(Kind kind, const Problem& p, int64_t batch) {
  using tag = memory::format_tag;
  const auto f32 = memory::data_type::f32;
  const Dims kernel_dims{p.out, p.in, p.rows, p.columns};
  const Dims strides(p.strides, p.strides + 2);
  const Dims before(p.before, p.before + 2);
  const Dims after(p.after, p.after + 2);
  const memory::desc images({batch, p.in, p.height, p.width}, p.type, tag::nhwc);
  const memory::desc outputs({batch, p.out, p.high, p.wide}, p.type, tag::nhwc);
  const memory::desc kernel(kernel_dims, p.type, tag::any);
  const auto direct = algorithm::convolution_direct;
  dnnl::primitive_attr attr;
  // the library's own scratchpad belongs to the thread that created the primitive
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  Plan plan;
#if DNNL_VERSION_MAJOR >= 3
  dnnl::convolution_forward::primitive_desc forward(
      Engine(), dnnl::prop_kind::forward_training, direct, images, kernel, outputs,
      strides, before, after, attr);
#else
  dnnl::convolution_forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, direct, images, kernel, outputs, strides,
       before, after},
      attr, Engine());
#endif
  if (kind == Kind::kForward) {
    plan = {dnnl::convolution_forward(forward), forward.src_desc(),
            forward.weights_desc(), forward.dst_desc(), forward.scratchpad_desc()};
  } else if (kind == Kind::kOfImages) {
#if DNNL_VERSION_MAJOR >= 3
    dnnl::convolution_backward_data::primitive_desc backward(
        Engine(), direct, images, kernel, outputs, strides, before, after, forward,
        attr);
#else
    dnnl::convolution_backward_data::primitive_desc backward(
        {direct, images, kernel, outputs, strides, before, after}, attr, Engine(),
        forward);
#endif
    plan = {dnnl::convolution_backward_data(backward), backward.diff_src_desc(),
            backward.weights_desc(), backward.diff_dst_desc(),
            backward.scratchpad_desc()};
  } else {
    // float32, whatever the type: blocks are added up before the result is rounded
    const memory::desc gradient(kernel_dims, f32, tag::any);
#if DNNL_VERSION_MAJOR >= 3
    dnnl::convolution_backward_weights::primitive_desc backward(
        Engine(), direct, images, gradient, outputs, strides, before, after, forward,
        attr);
#else
    dnnl::convolution_backward_weights::primitive_desc backward(
        {direct, images, gradient, outputs, strides, before, after}, attr, Engine(),
        forward);
#endif
    plan = {dnnl::convolution_backward_weights(backward), backward.src_desc(),
            backward.diff_weights_desc(), backward.diff_dst_desc(),
            backward.scratchpad_desc()};
  }
  return plan;
}

// The plan of a block, created the first time its shape is met.
const Plan& Find(Kind kind, const Problem& p, int64_t batch) {
  static auto* lock = new std::mutex;
  static auto* plans = new std::map<std::vector<int64_t>, Plan>;
  const std::vector<int64_t> key{
      static_cast<int64_t>(kind), batch,        p.height,    p.width,
      p.in,                       p.rows,       p.columns,   p.out,
      p.strides[0],               p.strides[1], p.before[0], p.before[1],
      p.after[0],                 p.after[1],   static_cast<int64_t>(p.type)};
  std::lock_guard<std::mutex> guard(*lock);
  auto found = plans->find(key);
  if (found == plans->end()) {
    found = plans->emplace(key, Create(kind, p, batch)).first;
  }
  return found->second;
}

void Execute(const dnnl::primitive& primitive,
             const std::unordered_map<int, memory>& arguments) {
  static thread_local auto* stream = new dnnl::stream(Engine());
  primitive.execute(*stream, arguments);
  stream->wait();
}

void Reorder(const memory::desc& from, void* source, const memory::desc& to,
             void* target) {
  memory a(from, Engine(), source);
  memory b(to, Engine(), target);
  Execute(dnnl::reorder(a, b), {{DNNL_ARG_FROM, a}, {DNNL_ARG_TO, b}});
}

// Calls of this library that run now.
std::atomic<int64_t> active{0};

// Runs task(0) to task(count - 1) on this thread and on those of XLA's pool that come
// to help. Nothing waits for a helper that has not begun, so calls that fill the pool
// cannot wait for one another.
void ForEach(ffi::ThreadPool& pool, int64_t count,
             const std::function<void(int64_t)>& task) {
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex lock;
    std::condition_variable done;
    int64_t num_done = 0;
    std::exception_ptr error;
  };
  auto shared = std::make_shared<Shared>();
  const auto* work = &task;
  // a helper that finds a task left knows that the caller still waits, with `task`
  auto take = [shared, work, count] {
    OneThread one;
    for (int64_t i; (i = shared->next.fetch_add(1)) < count;) {
      std::exception_ptr error;
      try {
        (*work)(i);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> guard(shared->lock);
      if (error) shared->error = error;
      if (++shared->num_done == count) shared->done.notify_all();
    }
  };
  const int64_t others = ++active - 1;
  const int64_t helpers = std::min(count - 1, pool.num_threads() - 1 - others);
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(take));
  take();
  {
    std::unique_lock<std::mutex> guard(shared->lock);
    shared->done.wait(guard, [&] { return shared->num_done == count; });
  }
  --active;
  if (shared->error) std::rethrow_exception(shared->error);
}

void Run(Kind kind, const Problem& p, char* images, char* kernel, char* outputs,
         ffi::ThreadPool& pool) {
  OneThread one;
  const int64_t size = ImagesOfBlock(kind, p);
  const int64_t count = (p.batch + size - 1) / size;
  const Plan& whole = Find(kind, p, size);
  const Plan& last = Find(kind, p, p.batch - (count - 1) * size);
  const memory::desc stored({p.out, p.in, p.rows, p.columns}, p.type,
                            memory::format_tag::hwio);
  const int64_t step_in = size * p.InputsOfImage() * p.SizeOfType();
  const int64_t step_out = size * p.OutputsOfImage() * p.SizeOfType();

  auto block = [&](int64_t i, void* weights) {
    static thread_local auto* scratch = new Buffer;
    const Plan& plan = i + 1 < count ? whole : last;
    memory x(plan.images, Engine(), images + i * step_in);
    memory k(plan.kernel, Engine(), weights);
    memory y(plan.outputs, Engine(), outputs + i * step_out);
    memory s(plan.scratch, Engine(), scratch->Get(plan.scratch.get_size()));
    if (kind == Kind::kForward) {
      Execute(plan.primitive, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, k},
                               {DNNL_ARG_DST, y}, {DNNL_ARG_SCRATCHPAD, s}});
    } else if (kind == Kind::kOfImages) {
      Execute(plan.primitive, {{DNNL_ARG_DIFF_SRC, x}, {DNNL_ARG_WEIGHTS, k},
                               {DNNL_ARG_DIFF_DST, y}, {DNNL_ARG_SCRATCHPAD, s}});
    } else {
      Execute(plan.primitive, {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_WEIGHTS, k},
                               {DNNL_ARG_DIFF_DST, y}, {DNNL_ARG_SCRATCHPAD, s}});
    }
  };

  // a caller's, which may be in several calls of one thread at once? no: calls nest
  // nowhere
  static thread_local auto* buffer = new Buffer;
  if (kind != Kind::kOfKernel) {
    auto arranged = [&](const Plan& plan, Buffer* space) -> void* {
      if (plan.kernel == stored) return kernel;
      void* target = space->Get(plan.kernel.get_size());
      Reorder(stored, kernel, plan.kernel, target);
      return target;
    };
    static thread_local auto* spare = new Buffer;
    void* weights = arranged(whole, buffer);
    void* weights_last =
        last.kernel == whole.kernel ? weights : arranged(last, spare);
    ForEach(pool, count, [&](int64_t i) {
      block(i, i + 1 < count ? weights : weights_last);
    });
    return;
  }

  // Each block's gradient is in the order that its kernel likes; the sum is in that of
  // the whole ones.
  const size_t bytes = std::max(whole.kernel.get_size(), last.kernel.get_size());
  const size_t stride = (bytes + 63) / 64 * 64;
  char* parts = static_cast<char*>(buffer->Get((count + 1) * stride));
  ForEach(pool, count, [&](int64_t i) { block(i, parts + i * stride); });
  if (last.kernel != whole.kernel) {
    char* moved = parts + count * stride;
    char* end = parts + (count - 1) * stride;
    Reorder(last.kernel, end, whole.kernel, moved);
    std::memcpy(end, moved, whole.kernel.get_size());
  }
  const int64_t length = whole.kernel.get_size() / sizeof(float);
  const int64_t piece = 1 << 14;
  ForEach(pool, count == 1 ? 0 : (length + piece - 1) / piece, [&](int64_t j) {
    const int64_t begin = j * piece;
    const int64_t end = std::min(begin + piece, length);
    float* total = reinterpret_cast<float*>(parts);
    for (int64_t i = 1; i < count; ++i) {
      const float* part = reinterpret_cast<const float*>(parts + i * stride);
      for (int64_t k = begin; k < end; ++k) total[k] += part[k];
    }
  });
  Reorder(whole.kernel, parts, stored, kernel);
}

ffi::Error Call(Kind kind, ffi::ThreadPool& pool, ffi::AnyBuffer& images,
                ffi::AnyBuffer& kernel, ffi::AnyBuffer& outputs, Ints strides,
                Ints padding) {
  const auto x = images.dimensions();
  const auto k = kernel.dimensions();
  const auto y = outputs.dimensions();
  Problem p{x[0], x[1], x[2], x[3], k[0], k[1], k[3], y[1], y[2]};
  for (int axis = 0; axis < 2; ++axis) {
    p.strides[axis] = strides[axis];
    p.before[axis] = padding[2 * axis];
    p.after[axis] = padding[2 * axis + 1];
  }
  p.type = images.element_type() == ffi::DataType::BF16 ? memory::data_type::bf16
                                                        : memory::data_type::f32;
  try {
    Run(kind, p, static_cast<char*>(images.untyped_data()),
        static_cast<char*>(kernel.untyped_data()),
        static_cast<char*>(outputs.untyped_data()), pool);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer images, ffi::AnyBuffer kernel,
                   ffi::Result<ffi::AnyBuffer> outputs, Ints strides, Ints padding) {
  return Call(Kind::kForward, pool, images, kernel, *outputs, strides, padding);
}

ffi::Error OfImages(ffi::ThreadPool pool, ffi::AnyBuffer outputs,
                    ffi::AnyBuffer kernel, ffi::Result<ffi::AnyBuffer> images,
                    Ints strides, Ints padding) {
  return Call(Kind::kOfImages, pool, *images, kernel, outputs, strides, padding);
}

ffi::Error OfKernel(ffi::ThreadPool pool, ffi::AnyBuffer images,
                    ffi::AnyBuffer outputs, ffi::Result<ffi::AnyBuffer> kernel,
                    Ints strides, Ints padding) {
  return Call(Kind::kOfKernel, pool, images, *kernel, outputs, strides, padding);
}

}  // namespace

#define CONVOLUTION()            \
  ffi::Ffi::Bind()               \
      .Ctx<ffi::ThreadPool>()    \
      .Arg<ffi::AnyBuffer>()     \
      .Arg<ffi::AnyBuffer>()     \
      .Ret<ffi::AnyBuffer>()     \
      .Attr<Ints>("strides")     \
      .Attr<Ints>("padding")

XLA_FFI_DEFINE_HANDLER_SYMBOL(forward, Forward, CONVOLUTION());
XLA_FFI_DEFINE_HANDLER_SYMBOL(of_images, OfImages, CONVOLUTION());
XLA_FFI_DEFINE_HANDLER_SYMBOL(of_kernel, OfKernel, CONVOLUTION());

// Whether this processor computes in bfloat16, 1 or 0.
extern "C" int computes_bfloat16() {
  try {
    OneThread one;
    Problem p{1, 8, 8, 16, 3, 3, 16, 8, 8, {1, 1}, {1, 1}, {1, 1},
              memory::data_type::bf16};
    Create(Kind::kOfKernel, p, 1);
    return 1;
  } catch (const dnnl::error&) {
    return 0;
  }
}

// Version of the oneDNN library that is loaded, times 1 for patches, 100, 10,000.
extern "C" int version_of_onednn() {
  const dnnl_version_t* version = dnnl_version();
  return 10000 * version->major + 100 * version->minor + version->patch;
}
