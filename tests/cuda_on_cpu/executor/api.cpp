// The C functions the Python side calls.
#include <algorithm>
#include <cstdio>

#include "decode.h"
#include "launch.h"

using namespace exe;

namespace {

struct Loaded {
  std::unique_ptr<Module> module;
  std::vector<std::unique_ptr<Allocation>> variables;
};

void put(char* out, size_t size, const std::string& s) { snprintf(out, size, "%s", s.c_str()); }

void check_launch(const Program& p, const uint32_t* grid, const uint32_t* block, int64_t nargs, int64_t shared) {
  auto bad = [&](const std::string& what) { throw Fault(kinds::kInvalidLaunch, p.name + ": " + what); };
  const uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
  const std::string shape = std::to_string(block[0]) + "x" + std::to_string(block[1]) + "x" + std::to_string(block[2]);
  if (threads == 0 || threads > 1024 || block[0] > 1024 || block[1] > 1024 || block[2] > 64) bad("block of " + shape + " threads");
  if (p.max_threads && threads > static_cast<uint64_t>(p.max_threads))
    bad("block of " + shape + " threads, compiled for at most " + std::to_string(p.max_threads));
  if (p.required[0] && (p.required[0] != int(block[0]) || p.required[1] != int(block[1]) || p.required[2] != int(block[2])))
    bad("block of " + shape + " threads is not the required one");
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
    bad("grid of " + std::to_string(grid[0]) + "x" + std::to_string(grid[1]) + "x" + std::to_string(grid[2]) + " blocks");
  if (nargs != p.param_bytes) bad(std::to_string(nargs) + " bytes of arguments, the kernel takes " + std::to_string(p.param_bytes));
  if (shared < 0 || shared + p.static_shared > 227 * 1024)
    bad(std::to_string(shared) + " + " + std::to_string(p.static_shared) + " bytes of shared memory");
}

}  // namespace

#define EXE_API extern "C" __attribute__((visibility("default")))

EXE_API void* exe_module_new(const char* text, int64_t n, char* error, int64_t error_size) {
  try {
    auto m = std::make_unique<Loaded>();
    m->module = load_module(std::string(text, n));
    for (auto& s : m->module->storage) {
      auto a = std::make_unique<Allocation>();
      a->lo = s.address, a->hi = s.address + s.size, a->name = s.name, a->constant = s.constant, a->initialised = true;
      m->variables.push_back(std::move(a));
    }
    return m.release();
  } catch (const std::exception& e) {
    put(error, error_size, e.what());
    return nullptr;
  }
}
EXE_API void exe_module_free(void* m) { delete static_cast<Loaded*>(m); }
EXE_API int64_t exe_module_size(void* m) { return static_cast<int64_t>(static_cast<Loaded*>(m)->module->programs.size()); }
EXE_API const char* exe_function(void* m, int64_t k, int64_t* out) {
  const Program& p = *static_cast<Loaded*>(m)->module->programs[k];
  out[0] = p.param_bytes, out[1] = p.static_shared, out[2] = p.registers, out[3] = p.max_threads, out[4] = p.local_bytes;
  out[5] = static_cast<int64_t>(p.code.size());
  return p.name.c_str();
}
EXE_API uint64_t exe_variable(void* m, const char* name, int64_t* size) {
  for (auto& s : static_cast<Loaded*>(m)->module->storage)
    if (s.name == name) return *size = s.size, s.address;
  return 0;
}

EXE_API void* exe_memory_new() { return new Memory; }
EXE_API void exe_memory_free(void* m) { delete static_cast<Memory*>(m); }
EXE_API void exe_memory_add(void* m, uint64_t address, uint64_t bytes, const char* name, int initialised) {
  static_cast<Memory*>(m)->add(address, bytes, name, initialised);
}
EXE_API int exe_memory_remove(void* m, uint64_t address) { return static_cast<Memory*>(m)->remove(address); }
EXE_API int exe_memory_mark(void* m, uint64_t address, uint64_t bytes) { return static_cast<Memory*>(m)->mark_initialised(address, bytes); }

// options: order, seed, lazy copies, checks, threads, step limit. counters: those of MemoryCounters, then for each Cls: warps, lanes and
// amount × lanes; then all PTX instructions: warps, lanes. Returns "" or the fault's kind.
EXE_API const char* exe_launch(void* m, int64_t function, const uint32_t* grid, const uint32_t* block, const uint8_t* args, int64_t nargs,
                               void* memory, int64_t shared_bytes, const int64_t* options, int64_t* counters, char* error,
                               int64_t error_size) {
  auto& loaded = *static_cast<Loaded*>(m);
  const Program& p = *loaded.module->programs[function];
  try {
    check_launch(p, grid, block, nargs, shared_bytes);
    Launch l;
    l.module = loaded.module.get();
    l.program = &p;
    l.options.order = static_cast<int>(options[0]);
    l.options.seed = static_cast<uint64_t>(options[1]);
    l.options.lazy_copies = options[2];
    l.options.checks = options[3];
    l.options.threads = static_cast<int>(options[4]);
    l.options.step_limit = options[5];
    std::copy(grid, grid + 3, l.grid);
    std::copy(block, block + 3, l.block);
    std::vector<uint8_t> params(args, args + nargs);
    params.resize(nargs + 64);
    l.params = params.data();
    l.memory = static_cast<Memory*>(memory);
    for (auto& v : loaded.variables) l.variables.push_back(v.get());
    const ClockScope clock;
    l.start_time = tick();
    l.shared_bytes = shared_bytes;
    l.shared_total = p.dynamic_offset + shared_bytes + 128;
    std::vector<uint64_t> counts;
    MemoryCounters memory_counters;
    std::exception_ptr failed;
    try {
      run_launch(l, counts, memory_counters);
    } catch (...) {
      failed = std::current_exception();
    }
    std::fill_n(counters, kNumMemoryCounters + 3 * kNumCls + 2, 0);
    std::copy_n(reinterpret_cast<const int64_t*>(&memory_counters), kNumMemoryCounters, counters);
    int64_t* c = counters + kNumMemoryCounters;
    for (auto& meta : p.meta) {
      if (meta.block < 0 || meta.text.empty()) continue;
      const int64_t warps = static_cast<int64_t>(counts[2 * meta.block]), lanes = static_cast<int64_t>(counts[2 * meta.block + 1]);
      if (meta.leading) c[3 * kNumCls] += warps, c[3 * kNumCls + 1] += lanes;
      c[3 * meta.cls] += warps, c[3 * meta.cls + 1] += lanes, c[3 * meta.cls + 2] += lanes * meta.amount;
    }
    if (failed) std::rethrow_exception(failed);
    return "";
  } catch (const Fault& f) {
    put(error, error_size, f.what());
    return f.kind;
  } catch (const std::exception& e) {
    put(error, error_size, e.what());
    return "internal";
  }
}
EXE_API int64_t exe_num_counters() { return kNumMemoryCounters + 3 * kNumCls + 2; }
