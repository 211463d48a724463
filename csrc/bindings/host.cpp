#include "bindings/host.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/coupling.h"
#include "core/ngrams.h"

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

// n-grams of strings, counted in rows of tokens or in text that is cut into tokens on the way.
class Grams {
 public:
  Grams(const py::sequence& grams, const std::vector<int64_t>& columns, int64_t width, int64_t skips) : width_(width), grams_(skips) {
    if (grams.size() != columns.size()) throw py::value_error("Grams: expected a column for every n-gram");
    for (size_t k = 0; k < columns.size(); k++) {
      if (columns[k] < 0 || columns[k] >= width) throw py::value_error("Grams: a column is out of range");
      grams_.add(grams[k].cast<std::vector<std::u32string>>(), columns[k]);
    }
  }

  py::array_t<float> rows(const py::list& rows) const {
    py::array_t<float> out = zeros(static_cast<py::ssize_t>(rows.size()));
    float* to = out.mutable_data();
    std::vector<int32_t> numbers;
    for (const py::handle row : rows) {
      numbers.clear();
      for (const py::handle token : py::reinterpret_borrow<py::list>(row))
        read(token.ptr(), [&](const auto* p, size_t n) { numbers.push_back(grams_.number(p, n)); });
      grams_.count(numbers, to);
      to += width_;
    }
    return out;
  }

  // Tokens: the longest runs of at least `least` characters below 128 that `of` has a non-zero byte for; every character if `of` is empty.
  py::array_t<float> text(const py::list& strings, const py::bytes& of, size_t least) const {
    const auto table = static_cast<std::string_view>(of);
    if (!table.empty() && table.size() != 128) throw py::value_error("Grams: expected a table of 128 bytes");
    py::array_t<float> out = zeros(static_cast<py::ssize_t>(strings.size()));
    float* to = out.mutable_data();
    std::vector<int32_t> numbers;
    for (const py::handle string : strings) {
      numbers.clear();
      read(string.ptr(), [&](const auto* p, size_t n) {
        if (table.empty()) {
          for (size_t i = 0; i < n; i++) numbers.push_back(grams_.number(p + i, 1));
          return;
        }
        for (size_t i = 0; i < n; i++) {
          const size_t begin = i;
          while (i < n && p[i] < 128 && table[p[i]]) i++;
          if (i > begin && i - begin >= least) numbers.push_back(grams_.number(p + begin, i - begin));
        }
      });
      grams_.count(numbers, to);
      to += width_;
    }
    return out;
  }

 private:
  py::array_t<float> zeros(py::ssize_t n) const {
    py::array_t<float> out({n, static_cast<py::ssize_t>(width_)});
    std::memset(out.mutable_data(), 0, static_cast<size_t>(out.nbytes()));
    return out;
  }

  template <class F>
  static void read(PyObject* s, F&& f) {  // f(code points, how many)
    if (!PyUnicode_Check(s)) throw py::type_error("expected strings");
    const auto n = static_cast<size_t>(PyUnicode_GET_LENGTH(s));
    const void* data = PyUnicode_DATA(s);
    switch (PyUnicode_KIND(s)) {
      case PyUnicode_1BYTE_KIND: f(static_cast<const Py_UCS1*>(data), n); break;
      case PyUnicode_2BYTE_KIND: f(static_cast<const Py_UCS2*>(data), n); break;
      default: f(static_cast<const Py_UCS4*>(data), n); break;
    }
  }

  int64_t width_;
  ptrt::NGrams grams_;
};

}  // namespace

void add_host_functions(py::module_& m) {
  m.def("couple", &couple, py::arg("scores"), py::arg("a"), py::arg("b"), py::arg("classes"));
  py::class_<Grams>(m, "Grams")
      .def(py::init<const py::sequence&, const std::vector<int64_t>&, int64_t, int64_t>(), py::arg("grams"), py::arg("columns"),
           py::arg("width"), py::arg("skips"))
      .def("rows", &Grams::rows)
      .def("text", &Grams::text, py::arg("strings"), py::arg("of"), py::arg("least"));
  py::class_<Records>(m, "Records").def(py::init<py::tuple>(), py::arg("labels")).def("__call__", &Records::call, py::arg("values"));
  m.def("positions", &positions, py::arg("values"), py::arg("table"), py::arg("missing"));
}
