#include "bindings/host.h"

#include <pybind11/numpy.h>

#include <cstring>

#include "core/coupling.h"

namespace py = pybind11;

namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style | py::array::forcecast>;

py::array_t<float> couple(const Dense<float>& scores, const Dense<double>& a, const Dense<double>& b, int64_t classes) {
  const int64_t pairs = classes * (classes - 1) / 2;
  if (classes < 2 || scores.ndim() != 2 || scores.shape(1) != pairs || a.size() != pairs || b.size() != pairs)
    throw py::value_error("couple: expected a score, a and b for every pair of classes");
  const int64_t rows = scores.shape(0);
  py::array_t<float> out({rows, classes});
  float* to = out.mutable_data();
  const float* from = scores.data();
  const double *pa = a.data(), *pb = b.data();
  py::gil_scoped_release release;
  ptrt::couple(from, pa, pb, rows, classes, to);
  return out;
}

py::array_t<int64_t> positions(py::array values, const py::dict& table, int64_t missing) {
  if (values.dtype().kind() != 'O') throw py::value_error("positions: expected an array of objects");
  int moving = -1, axes = 0;  // one axis alone may have any stride
  for (int i = 0; i < values.ndim(); i++)
    if (values.shape(i) != 1) moving = i, axes++;
  if (axes > 1 && !(values.flags() & py::array::c_style)) values = values.attr("copy")();
  const py::ssize_t stride = axes == 1 ? values.strides(moving) : static_cast<py::ssize_t>(sizeof(PyObject*));
  py::array_t<int64_t> out(std::vector<py::ssize_t>(values.shape(), values.shape() + values.ndim()));
  const char* from = static_cast<const char*>(values.data());
  int64_t* to = out.mutable_data();
  for (py::ssize_t k = 0; k < values.size(); k++, from += stride) {
    PyObject* key = *reinterpret_cast<PyObject* const*>(from);
    PyObject* found = PyDict_GetItemWithError(table.ptr(), key ? key : Py_None);
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    to[k] = found ? PyLong_AsLongLong(found) : missing;
    if (to[k] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  return out;
}

// Rows of scores as dicts by label.
class Records {
 public:
  explicit Records(py::tuple labels) : labels_(std::move(labels)) {
    for (const py::handle label : labels_) pattern_[label] = py::none();
  }

  py::list call(const py::array& values) const {
    if (values.ndim() != 2 || static_cast<size_t>(values.shape(1)) != labels_.size())
      throw py::value_error("Records: expected rows of a score for every label");
    if (values.dtype().kind() == 'f' && values.itemsize() == 4) return filled<float>(values);
    if (values.dtype().kind() == 'f' && values.itemsize() == 8) return filled<double>(values);
    throw py::type_error("Records: expected float32 or float64");
  }

 private:
  template <class T>
  py::list filled(const py::array& values) const {
    const auto rows = values.shape(0), columns = values.shape(1), down = values.strides(0), along = values.strides(1);
    const char* row = static_cast<const char*>(values.data());
    py::list out(rows);
    for (py::ssize_t i = 0; i < rows; i++, row += down) {
      PyObject* record = PyDict_Copy(pattern_.ptr());  // with the keys, and room for no more
      if (!record) throw py::error_already_set();
      PyList_SET_ITEM(out.ptr(), i, record);
      for (py::ssize_t k = 0; k < columns; k++) {
        T score;
        std::memcpy(&score, row + k * along, sizeof score);
        const auto value = py::reinterpret_steal<py::object>(PyFloat_FromDouble(static_cast<double>(score)));
        if (!value || PyDict_SetItem(record, PyTuple_GET_ITEM(labels_.ptr(), k), value.ptr())) throw py::error_already_set();
      }
    }
    return out;
  }

  py::tuple labels_;
  py::dict pattern_;
};

}  // namespace

void add_host_functions(py::module_& m) {
  m.def("couple", &couple, py::arg("scores"), py::arg("a"), py::arg("b"), py::arg("classes"));
  py::class_<Records>(m, "Records").def(py::init<py::tuple>(), py::arg("labels")).def("__call__", &Records::call, py::arg("values"));
  m.def("positions", &positions, py::arg("values"), py::arg("table"), py::arg("missing"));
}
