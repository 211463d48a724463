// What host calls (strings, coupled probabilities) use where the extension is there; pytensor_rt/hosted.py has the NumPy forms.
#pragma once
#include <pybind11/pybind11.h>

void add_host_functions(pybind11::module_& m);
