// What the Python module is made of: a matrix over tensors that Python keeps.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kbit.h"
#include "layout.h"
#include "tensors.h"

namespace kbit {

inline void refuse_where(const std::string &fault) {
  if (!fault.empty()) throw nb::value_error((fault + ".").c_str());
}

inline int compute_of(const char *word) {
  if (std::strcmp(word, "int8") == 0) return KBIT_INT8;
  if (std::strcmp(word, "exact") == 0) return KBIT_EXACT;
  throw nb::value_error((std::string("compute is '") + word + "', not int8 or exact.").c_str());
}

// A kbit_matrix over the tensors that hold its parts. Large parts stay where they are, and references keep them; what an index
// depends on (kept columns) and what is small (levels) is copied, so that nobody changes it after the check.
class Matrix {
 public:
  Matrix(int64_t n_out, int64_t n_in, int64_t n_kept, int64_t block, int k, int coding, int first, int rise, int scales,
         bool per_tensor, float step, float tensor_scale, int integer_bits, nb::object codes, nb::object scale,
         nb::object second_scale, nb::object zero, nb::object shift, nb::object levels, nb::object integer_levels,
         nb::object kept_columns, nb::object kept_weight)
      : codes_(std::move(codes)),
        scale_(std::move(scale)),
        second_scale_(std::move(second_scale)),
        zero_(std::move(zero)),
        shift_(std::move(shift)),
        kept_weight_(std::move(kept_weight)) {
    m_.n_out = n_out;
    m_.n_in = n_in;
    m_.n_kept = n_kept;
    m_.block = block;
    m_.k = k;
    m_.coding = coding;
    m_.first = first;
    m_.rise = rise;
    m_.scales = scales;
    m_.per_tensor = per_tensor;
    m_.step = step;
    m_.tensor_scale = tensor_scale;
    m_.integer_bits = integer_bits;
    refuse_where(fault_of(m_));
    bytes_ = part_bytes(m_, !zero_.is_none(), !shift_.is_none());
    if (coding != KBIT_LINEAR && !zero_.is_none()) refuse_where("zero is given, but the levels are no whole numbers");
    if (!zero_.is_none() && (first != 0 || rise != 1)) refuse_where("zero is given, but levels begin elsewhere than at 0");
    located();
    copy(levels_, "levels", levels, bytes_.levels);
    copy(integer_levels_, "integer_levels", integer_levels, bytes_.integer_levels);
    copy(kept_columns_, "kept_columns", kept_columns, bytes_.kept_columns);
    m_.levels = levels_.data();
    m_.integer_levels = integer_levels_.data();
    m_.kept_columns = kept_columns_.data();
    refuse_where(fault_of_values(m_));
  }

  // The matrix with its parts where they lie now: torch may move a storage (share_memory_), and then its old place is freed.
  kbit_matrix located() const {
    kbit_matrix m = m_;
    m.codes = static_cast<const uint8_t *>(part<uint8_t>("codes", codes_, bytes_.codes));
    m.scale = m.scales == KBIT_F16 ? part<Float16>("scale", scale_, bytes_.scale) : part<uint8_t>("scale", scale_, bytes_.scale);
    m.second_scale = static_cast<const uint16_t *>(part<Float16>("second_scale", second_scale_, bytes_.second_scale));
    m.zero = static_cast<const uint8_t *>(part<uint8_t>("zero", zero_, bytes_.zero));
    m.shift = static_cast<const uint16_t *>(part<Float16>("shift", shift_, bytes_.shift));
    m.kept_weight = static_cast<const uint16_t *>(part<Float16>("kept_weight", kept_weight_, bytes_.kept_weight));
    return m;
  }

  void product(nb::handle x, nb::handle y, const char *compute) const {
    const TensorView x_view("x", x), y_view("y", y, true);
    const auto *from = static_cast<const float *>(x_view.address<float>({-1, m_.n_in}));
    const int64_t n = x_view.size(0);
    auto *to = static_cast<float *>(y_view.address<float>({n, m_.n_out}));
    const int how = compute_of(compute);
    const kbit_matrix m = located();
    nb::gil_scoped_release released;
    if (kbit_product(&m, from, n, m.n_in, to, m.n_out, how) != 0) throw std::bad_alloc();
  }

  void dequantize(int64_t row, int64_t row_end, nb::handle out) const {
    if (row < 0 || row > row_end || row_end > m_.n_out)
      refuse_where("rows " + std::to_string(row) + " to " + std::to_string(row_end) + " are not of " + std::to_string(m_.n_out));
    auto *to = static_cast<float *>(TensorView("out", out, true).address<float>({row_end - row, m_.n_in}));
    const kbit_matrix m = located();
    nb::gil_scoped_release released;
    if (kbit_dequantize(&m, row, row_end, to) != 0) throw std::bad_alloc();
  }

  void quantize_activations(nb::handle x, nb::handle q, nb::handle scale, nb::handle sum) const {
    const TensorView x_view("x", x), q_view("q", q, true), scale_view("scale", scale, true), sum_view("sum", sum, true);
    const auto *from = static_cast<const float *>(x_view.address<float>({m_.n_in}));
    auto *codes = static_cast<int8_t *>(q_view.address<int8_t>({m_.n_in - m_.n_kept}));
    auto *scales = static_cast<float *>(scale_view.address<float>({segments()}));
    auto *sums = static_cast<int32_t *>(sum_view.address<int32_t>({segments()}));
    if (kbit_quantize_activations(&m_, from, codes, scales, sums) != 0) throw std::bad_alloc();
  }

  // y (n, n_out) = q w^T exactly, int32 of int8 q (n, n_in) of -127 .. 127.
  void accumulate(nb::handle q, nb::handle y) {
    const TensorView q_view("q", q), y_view("y", y, true);
    const auto *from = static_cast<const int8_t *>(q_view.address<int8_t>({-1, m_.n_in}));
    const int64_t n = q_view.size(0);
    auto *to = static_cast<int32_t *>(y_view.address<int32_t>({n, m_.n_out}));
    const int64_t sum = largest_sum();
    const kbit_matrix m = located();
    nb::gil_scoped_release released;
    int most = 0;
    for (int64_t i = 0; i < n * m.n_in; ++i) most = most < -from[i] ? -from[i] : most < from[i] ? from[i] : most;
    if (most > INT8_MAX) refuse_where("q has a code of -128, not -127 to 127");
    if (sum > INT32_MAX / (most > 0 ? most : 1))
      refuse_where("sums of products can reach " + std::to_string(sum) + " * " + std::to_string(most) + ", beyond 2^31 - 1");
    if (kbit_fixed_product(&m, from, n, to) != 0) throw std::bad_alloc();
  }

  // The largest sum over the columns of a row of (scale of the block) * |level|: activations of size q make sums of q times that.
  int64_t largest_sum() {
    if (largest_sum_ < 0) {
      const kbit_matrix m = located();
      nb::gil_scoped_release released;
      largest_sum_ = kbit_largest_sum(&m);
    }
    if (largest_sum_ < 0)
      refuse_where("its codes are not whole numbers from -L to L under scales of a row, or 8-bit ones of blocks");
    return largest_sum_;
  }

  int64_t n_out() const { return m_.n_out; }
  int64_t n_in() const { return m_.n_in; }
  int64_t n_coded() const { return m_.n_in - m_.n_kept; }
  int64_t segments() const { return n_segments(m_); }

 private:
  // The address of a stored part of exactly so many bytes; NULL where the matrix has no such part.
  template <typename T>
  static const void *part(const char *name, const nb::object &tensor, int64_t bytes) {
    if (bytes == 0 && tensor.is_none()) return nullptr;
    if (bytes == 0) refuse_where(std::string(name) + " is given, but this matrix has no such part");
    if (tensor.is_none()) refuse_where(std::string(name) + " is missing");
    return TensorView(name, tensor).address<T>({bytes * 8 / dtype_of<T>.bits});
  }

  template <typename T>
  static void copy(std::vector<T> &into, const char *name, const nb::object &tensor, int64_t bytes) {
    const auto *from = static_cast<const T *>(part<T>(name, tensor, bytes));
    if (from) into.assign(from, from + bytes / sizeof(T));
  }

  kbit_matrix m_{};
  PartBytes bytes_{};
  int64_t largest_sum_ = -1;  // not known yet
  nb::object codes_, scale_, second_scale_, zero_, shift_, kept_weight_;
  std::vector<float> levels_;
  std::vector<int16_t> integer_levels_;
  std::vector<int32_t> kept_columns_;
};

void bind_decoder(nb::module_ &module);  // bindings_decoder.cpp
void bind_fixed(nb::module_ &module);    // bindings_fixed.cpp

}  // namespace kbit
