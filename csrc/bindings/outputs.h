// The arrays that runs hand out.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace ptrt {

// An array's shape and dtype.
struct ArraySpec {
  ArraySpec(const pybind11::handle& dims, pybind11::object type);
  // Is `a`, an ndarray, C-contiguous and aligned and exactly of this shape and dtype?
  bool describes(PyObject* a) const;
  bool large() const;  // is its memory worth keeping?
  pybind11::object dtype;
  std::vector<Py_intptr_t> shape;
  int64_t bytes;
};

// Memory of large outputs. The system maps and zeroes fresh pages at some 6 GB/s and takes large blocks back at once when they are freed,
// so a session that returns 64 MB per run would spend half of it there. Memory of arrays that are gone is therefore kept for the next
// run: at most as much as the latest run handed out. Small arrays are NumPy's own.
class OutputMemory : public std::enable_shared_from_this<OutputMemory> {
 public:
  OutputMemory() = default;
  ~OutputMemory();
  OutputMemory(const OutputMemory&) = delete;
  OutputMemory& operator=(const OutputMemory&) = delete;
  // Adds the arrays of one run's outputs to `arrays`, with undefined contents. The GIL is held.
  void add(const std::vector<ArraySpec>& specs, std::vector<pybind11::object>& arrays);
  size_t spare_bytes() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return spare_bytes_;
  }

 private:
  struct Block {
    void* data;
    size_t capacity;
  };
  struct Lent;  // a block while an array uses it

  pybind11::object array(const ArraySpec& spec);
  Block take(size_t bytes);
  void give_back(Block block);

  mutable std::mutex mutex_;
  std::vector<Block> spare_;  // oldest first
  size_t spare_bytes_ = 0, most_ = 0;
};

void add_outputs(pybind11::module_& m);

}  // namespace ptrt
