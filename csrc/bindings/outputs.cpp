#include "bindings/outputs.h"

#include <algorithm>
#include <cstdlib>

#include "core/program.h"

namespace py = pybind11;

namespace ptrt {

namespace {

constexpr int64_t kLarge = 64 << 10;  // bytes; smaller blocks malloc keeps for itself

// Sizes in steps of an eighth, so that outputs that grow from run to run, as a decoder's keys and values do, fit what earlier ones left.
size_t capacity_for(size_t bytes) {
  size_t step = 4096;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

ArraySpec::ArraySpec(const py::handle& dims, py::object type) : dtype(std::move(type)) {
  bytes = py::reinterpret_borrow<py::dtype>(dtype).itemsize();
  for (const py::handle n : dims) {
    shape.push_back(n.cast<Py_intptr_t>());
    bytes *= shape.back();
  }
}

bool ArraySpec::large() const { return bytes >= kLarge && py::reinterpret_borrow<py::dtype>(dtype).kind() != 'O'; }

bool ArraySpec::describes(PyObject* a) const {
  const auto* p = py::detail::array_proxy(a);
  constexpr int kPlain = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  const bool same = p->descr == dtype.ptr() || py::detail::npy_api::get().PyArray_EquivTypes_(p->descr, dtype.ptr());  // unpickled: a copy
  return same && p->nd == static_cast<int>(shape.size()) && (p->flags & kPlain) == kPlain &&
         std::equal(shape.begin(), shape.end(), p->dimensions);
}

struct OutputMemory::Lent {
  Lent(Block b, std::weak_ptr<OutputMemory> from) : block(b), home(std::move(from)) {}
  ~Lent() {
    if (const auto memory = home.lock()) memory->give_back(block);
    else std::free(block.data);
  }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  const Block block;
  const std::weak_ptr<OutputMemory> home;
};

OutputMemory::~OutputMemory() {
  for (const Block& b : spare_) std::free(b.data);
}

void OutputMemory::add(const std::vector<ArraySpec>& specs, std::vector<py::object>& arrays) {
  size_t large = 0;
  for (const ArraySpec& s : specs)
    if (s.large()) large += capacity_for(static_cast<size_t>(s.bytes));
  if (large > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    most_ = large;
  }
  for (const ArraySpec& s : specs) arrays.push_back(array(s));
}

py::object OutputMemory::array(const ArraySpec& spec) {
  const auto& api = py::detail::npy_api::get();
  const auto make = [&](void* data, int flags) {
    PyObject* a = api.PyArray_NewFromDescr_(api.PyArray_Type_, spec.dtype.inc_ref().ptr(), static_cast<int>(spec.shape.size()),
                                            spec.shape.data(), nullptr, data, flags, nullptr);
    if (!a) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(a);
  };
  if (!spec.large()) return make(nullptr, 0);
  auto lent = std::make_unique<Lent>(take(static_cast<size_t>(spec.bytes)), weak_from_this());
  const py::capsule owner(lent.get(), [](void* p) { delete static_cast<Lent*>(p); });
  void* data = lent.release()->block.data;
  using Api = py::detail::npy_api;
  py::object a = make(data, Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_ALIGNED_ | Api::NPY_ARRAY_WRITEABLE_);
  if (api.PyArray_SetBaseObject_(a.ptr(), owner.inc_ref().ptr()) < 0) throw py::error_already_set();
  return a;
}

OutputMemory::Block OutputMemory::take(size_t bytes) {
  const size_t capacity = capacity_for(bytes);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto best = spare_.end();
    for (auto b = spare_.begin(); b != spare_.end(); ++b)
      if (b->capacity >= bytes && b->capacity <= capacity + capacity / 4 && (best == spare_.end() || b->capacity <= best->capacity))
        best = b;
    if (best != spare_.end()) {
      const Block found = *best;
      spare_.erase(best);
      spare_bytes_ -= found.capacity;
      return found;
    }
  }
  return {allocate(capacity), capacity};
}

void OutputMemory::give_back(Block block) {
  std::vector<Block> dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    spare_.push_back(block);
    spare_bytes_ += block.capacity;
    size_t n = 0;
    for (; spare_bytes_ > most_; n++) spare_bytes_ -= spare_[n].capacity;
    dropped.assign(spare_.begin(), spare_.begin() + static_cast<std::ptrdiff_t>(n));
    spare_.erase(spare_.begin(), spare_.begin() + static_cast<std::ptrdiff_t>(n));
  }
  for (const Block& b : dropped) std::free(b.data);
}

void add_outputs(py::module_& m) {
  py::class_<OutputMemory, std::shared_ptr<OutputMemory>>(m, "OutputMemory")
      .def(py::init<>())
      .def("arrays",
           [](OutputMemory& memory, const py::sequence& specs) {
             std::vector<ArraySpec> parsed;
             for (const py::handle s : specs) {
               const auto t = py::reinterpret_borrow<py::sequence>(s);
               parsed.emplace_back(py::object(t[0]), py::object(t[1]));
             }
             std::vector<py::object> arrays;
             memory.add(parsed, arrays);
             py::list list(arrays.size());
             for (size_t k = 0; k < arrays.size(); k++) list[k] = arrays[k];
             return list;
           })
      .def_property_readonly("spare_nbytes", &OutputMemory::spare_bytes);
}

}  // namespace ptrt
