// The Python module kbit.kernels._native: kbit.h with every tensor's dtype, place and size checked. The GIL is released for work.
#include "bindings.h"

namespace kbit {
namespace {

std::vector<std::pair<std::string, uint64_t>> isa_shares() {
  std::vector<std::pair<std::string, uint64_t>> found;
  for (int i = 0; i < kbit_isa_count(); ++i) found.emplace_back(kbit_isa_name(i), kbit_isa_shares(i));
  return found;
}

std::vector<std::pair<std::string, bool>> isas() {
  std::vector<std::pair<std::string, bool>> found;
  for (int i = 0; i < kbit_isa_count(); ++i) found.emplace_back(kbit_isa_name(i), kbit_isa_runs(i) != 0);
  return found;
}

double read_bandwidth(nb::handle data, int threads, int rounds) {
  const TensorView view("data", data);
  const void *from = view.address();
  const auto bytes = static_cast<size_t>(view.nbytes());
  nb::gil_scoped_release released;
  return kbit_read_bandwidth(from, bytes, threads, rounds);
}

}  // namespace

NB_MODULE(_native, module) {
  using namespace nb::literals;
  nb::set_leak_warnings(false);  // matrices of a model in a global variable live until the interpreter has gone
  nb::class_<Matrix>(module, "Matrix")
      .def(nb::init<int64_t, int64_t, int64_t, int64_t, int, int, int, int, int, bool, float, float, int, nb::object, nb::object,
                    nb::object, nb::object, nb::object, nb::object, nb::object, nb::object, nb::object>(),
           nb::kw_only(), "n_out"_a, "n_in"_a, "n_kept"_a, "block"_a, "k"_a, "coding"_a, "first"_a, "rise"_a, "scales"_a,
           "per_tensor"_a, "step"_a, "tensor_scale"_a, "integer_bits"_a, "codes"_a.none(), "scale"_a.none(),
           "second_scale"_a.none(), "zero"_a.none(), "shift"_a.none(), "levels"_a.none(), "integer_levels"_a.none(),
           "kept_columns"_a.none(), "kept_weight"_a.none())
      .def("product", &Matrix::product, "x"_a, "y"_a, "compute"_a)
      .def("dequantize", &Matrix::dequantize, "row"_a, "row_end"_a, "out"_a)
      .def("quantize_activations", &Matrix::quantize_activations, "x"_a, "q"_a, "scale"_a, "sum"_a)
      .def("accumulate", &Matrix::accumulate, "q"_a, "y"_a)
      .def("largest_sum", &Matrix::largest_sum)
      .def_prop_ro("n_out", &Matrix::n_out)
      .def_prop_ro("n_in", &Matrix::n_in)
      .def_prop_ro("n_coded", &Matrix::n_coded)
      .def_prop_ro("n_segments", &Matrix::segments);
  bind_decoder(module);
  bind_fixed(module);
  module.def("isa", &kbit_isa);
  module.def("isas", &isas);
  module.def("isa_shares", &isa_shares);
  module.def("set_isa", [](const char *name) { return kbit_set_isa(name) == 0; }, "name"_a);
  module.def("threads", &kbit_threads);
  module.def("set_threads", &kbit_set_threads, "threads"_a);
  module.def("read_bandwidth", &read_bandwidth, "data"_a, "threads"_a, "rounds"_a);
}

}  // namespace kbit
