// pybind11 only: parse arguments, release the GIL, call the core.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/host.h"
#include "bindings/outputs.h"
#include "core/program.h"
#include "core/thread_pool.h"
#include "core/vocabulary.h"

namespace py = pybind11;
using namespace ptrt;

namespace {

// Addresses of the arrays' first elements. Shapes, dtypes and strides were checked by the caller against the plan; here only that the
// memory from the first element on is as large as the program was told, and that outputs may be written.
void addresses(const py::tuple& arrays, const std::vector<int64_t>& bytes, std::vector<void*>& out, const char* what, bool written) {
  if (arrays.size() < bytes.size()) throw py::value_error(std::string(what) + ": too few arrays");
  out.clear();
  for (size_t k = 0; k < arrays.size(); k++) {
    const py::handle h = arrays[k];
    if (!py::isinstance<py::array>(h)) throw py::type_error(std::string(what) + ": expected NumPy arrays");
    const auto a = py::reinterpret_borrow<py::array>(h);
    if (k < bytes.size() && bytes[k] > 0) {
      int64_t reach = a.size() > 0 ? a.itemsize() : 0;
      for (py::ssize_t i = 0; i < a.ndim() && reach > 0; i++)
        if (a.strides(i) > 0) reach += (a.shape(i) - 1) * a.strides(i);
      if (reach < bytes[k])
        throw py::value_error(std::string(what) + ": array " + std::to_string(k) + " is smaller than the program was told");
      if (written && !a.writeable()) throw py::value_error(std::string(what) + ": array " + std::to_string(k) + " is read-only");
    }
    out.push_back(const_cast<void*>(a.data()));
  }
}

struct PyProgram {
  std::unique_ptr<Program> program;
  py::object keep;  // the constants' owners
  std::vector<void*> in, out;
  bool attached = false;

  void run(const py::tuple& inputs, const py::tuple& outputs, size_t begin, size_t end) {
    std::vector<void*> ins, outs;
    addresses(inputs, program->input_bytes(), ins, "inputs", false);
    addresses(outputs, program->output_bytes(), outs, "outputs", true);
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(program->arena().mutex);
    program->run(ins.data(), outs.data(), begin, end);
  }
  void attach(const py::tuple& inputs, const py::tuple& outputs) {  // for replay(): fixed addresses, kept alive by the caller
    std::vector<void*> ins, outs;
    addresses(inputs, program->input_bytes(), ins, "inputs", false);
    addresses(outputs, program->output_bytes(), outs, "outputs", true);
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(program->arena().mutex);
    in = std::move(ins);
    out = std::move(outs);
    attached = true;
  }
  void replay() {
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(program->arena().mutex);
    if (!attached) throw std::runtime_error("replay() before attach()");
    program->run(in.data(), out.data(), 0, program->num_launches());
  }
  py::array_t<int64_t> profile(const py::tuple& inputs, const py::tuple& outputs) {
    std::vector<void*> ins, outs;
    addresses(inputs, program->input_bytes(), ins, "inputs", false);
    addresses(outputs, program->output_bytes(), outs, "outputs", true);
    py::array_t<int64_t> t(static_cast<py::ssize_t>(program->num_launches()));
    int64_t* p = t.mutable_data();
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(program->arena().mutex);
    program->run(ins.data(), outs.data(), 0, program->num_launches(), p);
    return t;
  }
};

// One signature of a program, called with a feed as it comes: a dict with exactly these arrays, C-contiguous and of exactly these dtypes
// and shapes, gives a list of new output arrays; anything else gives None, and the caller looks closer. It has no state that a call
// changes.
class Direct {
 public:
  Direct(py::object program, std::shared_ptr<OutputMemory> memory, const py::sequence& inputs, const std::vector<size_t>& used,
         const py::sequence& outputs, const std::vector<size_t>& order, size_t launches)
      : keep_(std::move(program)),
        program_(keep_.cast<PyProgram&>()),
        memory_(std::move(memory)),
        used_(used),
        order_(order),
        launches_(launches) {
    for (const py::handle i : inputs) {
      const auto t = py::reinterpret_borrow<py::sequence>(i);
      names_.push_back(t[0]);
      inputs_.emplace_back(py::object(t[1]), py::object(t[2]));
    }
    for (const py::handle o : outputs) {
      const auto t = py::reinterpret_borrow<py::sequence>(o);
      outputs_.emplace_back(py::object(t[0]), py::object(t[1]));
    }
    const auto& in = program_.program->input_bytes();
    const auto& out = program_.program->output_bytes();
    bool fits = used_.size() >= in.size() && outputs_.size() >= out.size() && launches_ <= program_.program->num_launches();
    for (const size_t k : used_) fits = fits && k < inputs_.size();
    for (const size_t k : order_) fits = fits && k < outputs_.size();
    for (size_t k = 0; fits && k < in.size(); k++) fits = inputs_[used_[k]].bytes >= in[k];
    for (size_t k = 0; fits && k < out.size(); k++) fits = outputs_[k].bytes >= out[k];
    if (!fits) throw py::value_error("the program has other inputs or outputs");
  }

  py::object call(const py::handle& feed) const {
    const auto& api = py::detail::npy_api::get();
    if (!PyDict_CheckExact(feed.ptr()) || static_cast<size_t>(PyDict_Size(feed.ptr())) != names_.size()) return py::none();
    std::vector<py::object> arrays;
    arrays.reserve(names_.size() + outputs_.size());  // held while other threads may change the dict
    for (size_t k = 0; k < names_.size(); k++) {
      PyObject* a = PyDict_GetItemWithError(feed.ptr(), names_[k].ptr());
      if (!a) {
        if (PyErr_Occurred()) throw py::error_already_set();
        return py::none();
      }
      if (reinterpret_cast<PyObject*>(Py_TYPE(a)) != reinterpret_cast<PyObject*>(api.PyArray_Type_) || !inputs_[k].describes(a))
        return py::none();
      arrays.push_back(py::reinterpret_borrow<py::object>(a));
    }
    std::vector<void*> addresses;
    addresses.reserve(used_.size() + outputs_.size());
    for (const size_t k : used_) addresses.push_back(data_of(arrays[k]));
    memory_->add(outputs_, arrays);
    for (size_t k = names_.size(); k < arrays.size(); k++) addresses.push_back(data_of(arrays[k]));
    py::list results(order_.size());
    for (size_t k = 0; k < order_.size(); k++)
      PyList_SET_ITEM(results.ptr(), static_cast<Py_ssize_t>(k), arrays[names_.size() + order_[k]].inc_ref().ptr());
    {
      py::gil_scoped_release release;
      std::lock_guard<std::mutex> lock(program_.program->arena().mutex);
      program_.program->run(addresses.data(), addresses.data() + used_.size(), 0, launches_);
    }
    return std::move(results);
  }

 private:
  static void* data_of(const py::object& array) { return py::detail::array_proxy(array.ptr())->data; }

  py::object keep_;
  PyProgram& program_;
  std::shared_ptr<OutputMemory> memory_;
  std::vector<py::object> names_;
  std::vector<ArraySpec> inputs_, outputs_;
  std::vector<size_t> used_, order_;  // the program's inputs among all inputs; what is handed out among the program's outputs
  size_t launches_;
};

const KernelTable& find_table(const std::string& isa) {
  for (const KernelTable* t : kernel_tables())
    if (isa.empty() || isa == t->isa) return *t;
  throw py::value_error("ISA level '" + isa + "' is not available on this machine");
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  static py::handle launch_error = py::exception<LaunchError>(m, "LaunchError", PyExc_RuntimeError).release();
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const LaunchError& e) {
      py::object err = py::reinterpret_borrow<py::object>(launch_error)(e.what());
      err.attr("launch") = e.launch;
      PyErr_SetObject(launch_error.ptr(), err.ptr());
    } catch (const KernelError& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what());
    }
  });
  m.def("isa_levels", [] {
    std::vector<std::string> names;
    for (const KernelTable* t : kernel_tables()) names.push_back(t->isa);
    return names;
  });
  m.def("available_kernels", [](const std::string& isa) {
    std::vector<std::string> names;
    const KernelTable& t = find_table(isa);
    for (int k = 0; k < kNumKernels; k++)
      if (t.factories[k]) names.push_back(kKernelNames[k]);
    return names;
  });
  m.def("vocabulary", [] {
    py::dict kernels, ops;
    for (int k = 0; k < kNumKernels; k++) kernels[kKernelNames[k]] = k;
    for (int k = 0; k < kNumOps; k++) ops[kOpNames[k]] = k;
    return py::make_tuple(kernels, ops);
  });
  m.def("available_cpus", &ThreadPool::available_cpus);
  add_host_functions(m);
  add_outputs(m);
  py::class_<Arena, std::shared_ptr<Arena>>(m, "Arena")
      .def(py::init<>())
      .def_property_readonly("address", [](Arena& a) { return reinterpret_cast<uintptr_t>(a.data()); })
      .def_property_readonly("nbytes", &Arena::data_bytes)
      .def_property_readonly("scratch_nbytes", &Arena::scratch_bytes)
      .def_property_readonly("generation", &Arena::generation);
  py::class_<Packs, std::shared_ptr<Packs>>(m, "Packs")
      .def(py::init<>())
      .def("pack_at_bind", &Packs::pack_at_bind)
      .def("leave_in_file", &Packs::leave_in_file)
      .def_property_readonly("count", &Packs::count)
      .def_property_readonly("nbytes", &Packs::bytes);
  py::class_<Direct>(m, "Direct")
      .def(py::init<py::object, std::shared_ptr<OutputMemory>, const py::sequence&, const std::vector<size_t>&, const py::sequence&,
                    const std::vector<size_t>&, size_t>(),
           py::arg("program"), py::arg("memory"), py::arg("inputs"), py::arg("used"), py::arg("outputs"), py::arg("order"),
           py::arg("launches"))
      .def("__call__", &Direct::call);
  py::class_<PyProgram>(m, "Program")
      .def(py::init([](py::array_t<int64_t, py::array::c_style> code, const py::list& consts, const std::vector<bool>& mapped,
                       const std::string& isa, std::shared_ptr<Arena> arena, std::shared_ptr<Packs> packs, int threads,
                       const PyProgram* like) {
             std::vector<Const> cs;
             for (size_t k = 0; k < consts.size(); k++) {
               if (!py::isinstance<py::array>(consts[k])) throw py::type_error("consts: expected NumPy arrays");
               auto a = py::reinterpret_borrow<py::array>(consts[k]);
               if (!(a.flags() & (py::array::c_style | py::array::f_style))) throw py::value_error("consts: expected contiguous arrays");
               cs.push_back({const_cast<void*>(a.data()), static_cast<int64_t>(a.nbytes()), k < mapped.size() && mapped[k]});
             }
             auto p = std::make_unique<PyProgram>();
             p->keep = consts;
             const KernelTable& table = find_table(isa);
             const int64_t* words = code.data();
             const auto n = static_cast<size_t>(code.size());
             {
               py::gil_scoped_release release;
               std::lock_guard<std::mutex> lock(arena->mutex);
               p->program =
                   std::make_unique<Program>(words, n, cs, table, arena, std::move(packs), threads, like ? like->program.get() : nullptr);
             }
             return p;
           }),
           py::arg("code"), py::arg("consts"), py::arg("mapped"), py::arg("isa"), py::arg("arena"), py::arg("packs"), py::arg("threads"),
           py::arg("like") = nullptr)
      .def("run", &PyProgram::run)
      .def("attach", &PyProgram::attach)
      .def("replay", &PyProgram::replay)
      .def("profile", &PyProgram::profile)
      .def("describe", [](PyProgram& p, size_t k) { return p.program->describe(k); })
      .def_property_readonly("num_launches", [](PyProgram& p) { return p.program->num_launches(); })
      .def_property_readonly("shared_launches", [](PyProgram& p) { return p.program->shared_launches(); })
      .def_property_readonly("arena_bytes", [](PyProgram& p) { return p.program->arena_bytes(); })
      .def_property_readonly("scratch_bytes", [](PyProgram& p) { return p.program->scratch_bytes(); });
}
