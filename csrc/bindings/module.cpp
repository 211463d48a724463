// pybind11 only: parse arguments, release the GIL, call the core.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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
  py::class_<Arena, std::shared_ptr<Arena>>(m, "Arena")
      .def(py::init<>())
      .def_property_readonly("address", [](Arena& a) { return reinterpret_cast<uintptr_t>(a.data()); })
      .def_property_readonly("nbytes", &Arena::data_bytes)
      .def_property_readonly("scratch_nbytes", &Arena::scratch_bytes)
      .def_property_readonly("generation", &Arena::generation);
  py::class_<Packs, std::shared_ptr<Packs>>(m, "Packs")
      .def(py::init<>())
      .def("pack_at_bind", &Packs::pack_at_bind)
      .def_property_readonly("count", &Packs::count)
      .def_property_readonly("nbytes", &Packs::bytes);
  py::class_<PyProgram>(m, "Program")
      .def(py::init([](py::array_t<int64_t, py::array::c_style> code, const py::list& consts, const std::vector<bool>& mapped,
                       const std::string& isa, std::shared_ptr<Arena> arena, std::shared_ptr<Packs> packs, int threads) {
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
               p->program = std::make_unique<Program>(words, n, cs, table, arena, std::move(packs), threads);
             }
             return p;
           }),
           py::arg("code"), py::arg("consts"), py::arg("mapped"), py::arg("isa"), py::arg("arena"), py::arg("packs"), py::arg("threads"))
      .def("run", &PyProgram::run)
      .def("attach", &PyProgram::attach)
      .def("replay", &PyProgram::replay)
      .def("profile", &PyProgram::profile)
      .def("describe", [](PyProgram& p, size_t k) { return p.program->describe(k); })
      .def_property_readonly("num_launches", [](PyProgram& p) { return p.program->num_launches(); })
      .def_property_readonly("arena_bytes", [](PyProgram& p) { return p.program->arena_bytes(); })
      .def_property_readonly("scratch_bytes", [](PyProgram& p) { return p.program->scratch_bytes(); });
}
