// A plan bound to memory: a flat list of kernels, replayed in order. The encoding is written by pytensor_rt/runtime/encode.py.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/decode.h"
#include "core/launch.h"

namespace ptrt {

// Memory for std::free: whole cache lines, in huge pages where it is large. Throws std::bad_alloc.
char* allocate(size_t bytes);

// Zeroed-on-demand memory that only grows; shared by all programs of a session (they run one at a time).
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  void reserve(size_t data_bytes, size_t scratch_bytes);  // may move the memory: bumps generation
  char* data() const { return data_; }
  char* scratch() const { return scratch_; }
  size_t data_bytes() const { return data_bytes_; }
  size_t scratch_bytes() const { return scratch_bytes_; }
  uint64_t generation() const { return generation_; }
  std::mutex mutex;                // held while a program runs on this arena
  const void* resolved = nullptr;  // the program that ran last: kernels that programs share have its addresses

 private:
  char *data_ = nullptr, *scratch_ = nullptr;
  size_t data_bytes_ = 0, scratch_bytes_ = 0;
  uint64_t generation_ = 1;
};

// The packed weights of a session. Found by the source's address, so sources must outlive it (see Memory.program in kernels/cpu).
class Packs final : public PackCache {
 public:
  std::shared_ptr<const void> get(const Operand& source, const std::string& layout, size_t bytes,
                                  const std::function<void(void*)>& fill) override;
  std::shared_ptr<const void> find(const Operand& source, const std::string& layout) const override;
  std::shared_ptr<LazyPack> lazily(const Operand& source, const std::string& layout, size_t bytes,
                                   const std::function<void(void*)>& fill) override;
  size_t bytes() const {  // packed so far
    std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
  }
  size_t count() const {  // of the weights it knows, packed or not
    std::lock_guard<std::mutex> lock(mutex_);
    return map_.size();
  }
  // Programs bound from now on find all their weights packed, so that not even their first run allocates.
  void pack_at_bind() {
    std::lock_guard<std::mutex> lock(mutex_);
    at_bind_ = true;
  }
  // Large weights are never packed: every use reads the file and gives its pages back. Least memory, slower runs.
  void leave_in_file() {
    std::lock_guard<std::mutex> lock(mutex_);
    in_file_ = true;
  }
  void use_threads(int threads) {  // for mapping memory; what is packed never depends on it
    std::lock_guard<std::mutex> lock(mutex_);
    threads_ = threads;
  }

 private:
  class Entry;
  static std::string key(const Operand& source, const std::string& layout);
  std::shared_ptr<Entry> entry(const Operand& source, const std::string& layout, size_t bytes);  // holding the mutex
  // Holding the mutex. Small weights share blocks, so that they too lie in huge pages: on pages of their own, address translation took 4 %
  // of a MobileNet.
  std::shared_ptr<char> memory(size_t bytes);

  int threads_ = 1;
  bool at_bind_ = false, in_file_ = false;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<Entry>> map_;
  size_t bytes_ = 0;
  std::shared_ptr<char> block_;  // the one being filled; weights hold the blocks they lie in
  char* block_at_ = nullptr;
  size_t block_left_ = 0;
};

class Program {
 public:
  // `like`: a program on the same arena, or null. Launches that are the same there, word for word and on the same constants, are shared
  // with it.
  Program(const int64_t* code, size_t words, const std::vector<Const>& consts, const KernelTable& table, std::shared_ptr<Arena> arena,
          std::shared_ptr<Packs> packs, int threads, const Program* like = nullptr);

  // Runs launches [begin, end). The caller holds arena->mutex. Throws LaunchError.
  void run(void* const* inputs, void* const* outputs, size_t begin, size_t end, int64_t* nanoseconds = nullptr);

  size_t num_launches() const { return launches_.size(); }
  size_t shared_launches() const { return shared_launches_; }
  // Bytes that the memory of input (output) k must have, from the address that run() is given.
  const std::vector<int64_t>& input_bytes() const { return input_bytes_; }
  const std::vector<int64_t>& output_bytes() const { return output_bytes_; }
  size_t arena_bytes() const { return arena_bytes_; }
  size_t scratch_bytes() const { return scratch_bytes_; }
  std::string describe(size_t launch) const { return launches_.at(launch)->kernel->describe(); }
  Arena& arena() { return *arena_; }

 private:
  struct Launch {  // as it was bound
    std::unique_ptr<Kernel> kernel;
    std::vector<int64_t> words;
    std::vector<OperandRef> refs;
    bool in_strand;
  };
  bool shares(const Program& like) const;
  std::shared_ptr<Launch> bound(Decoder& decoder, BindContext bind, bool in_strand) const;
  void place(Launch& launch, const std::vector<OperandRef>& refs);

  struct Slot {
    Operand* operand;
    int64_t byte_offset;
  };
  void resolve_arena();
  const Strands* strands_of(size_t launch, size_t& group) const;  // or null; `group` only grows from launch to launch
  void run_launch(size_t k, const RunContext& ctx, int64_t* nanoseconds);
  RunContext one_worker(int worker) const;  // for launches of a strand
  void run_strands(const Strands& strands, const RunContext& ctx, int64_t* nanoseconds);

  const KernelTable& table_;
  std::vector<BufferInfo> buffers_;
  std::vector<void*> consts_;
  std::vector<std::shared_ptr<Launch>> launches_;
  std::vector<Strands> strands_;
  std::vector<Slot> arena_slots_;
  std::vector<std::pair<Operand*, char*>> moved_constants_;  // of kernels that permit it
  struct Patch {
    Operand* operand;
    int64_t index, byte_offset;
  };
  std::vector<Patch> input_patches_, output_patches_;
  std::vector<int64_t> input_bytes_, output_bytes_;
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Packs> packs_;
  uint64_t generation_ = 0;
  size_t shared_launches_ = 0, arena_bytes_ = 0, scratch_bytes_ = 0, shared_scratch_ = 0, thread_scratch_ = 0;
  size_t strand_shared_ = 0, strand_scratch_ = 0;  // for a worker's strand: shared by its tasks, and with what is a task's own
  int threads_;
};

struct LaunchError : KernelError {
  LaunchError(size_t index, const std::string& what) : KernelError(what), launch(index) {}
  size_t launch;
};

const std::vector<const KernelTable*>& kernel_tables();  // the levels this machine can run, best first (dispatch.cpp)

}  // namespace ptrt
