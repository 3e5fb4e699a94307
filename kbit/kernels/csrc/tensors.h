// What Python hands over, looked at before use: a CPU tensor's address, dtype and shape. torch answers in nanoseconds through
// DLPack's table of C functions; what lacks the table (NumPy) is asked through nanobind's ndarray.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <string>

namespace kbit {

namespace nb = nanobind;

// DLPackExchangeAPI of dlpack.h 1.3. Only the fields up to the one in use are written out.
struct DlpackExchange {
  struct {
    uint32_t major, minor;
    void *previous;
  } header;
  void *unused[3];
  int (*view)(void *object, nb::dlpack::dltensor *out);  // 0, or -1 with a Python exception set; `out` borrows from `object`
};

template <typename T>
constexpr nb::dlpack::dtype dtype_of = nb::dtype<T>();

// Float16 has no type in C++17: its bits are read as uint16.
struct Float16 {};
template <>
constexpr nb::dlpack::dtype dtype_of<Float16> = {uint8_t(nb::dlpack::dtype_code::Float), 16, 1};

// A tensor for the time of a call. It owns nothing: the caller's reference keeps the memory.
class TensorView {
 public:
  TensorView(const char *name, nb::handle object, bool writable = false) : name_(name) {
    if (const DlpackExchange *api = exchange_of(object)) {
      if (api->view(object.ptr(), &tensor_) == 0) return;
      PyErr_Clear();  // its text has a C++ stack trace in it
      throw nb::value_error((name_ + " is a tensor without memory of its own.").c_str());
    }
    if (writable ? !nb::try_cast(object, held_) : !nb::try_cast(object, held_read_only_))
      throw nb::value_error((name_ + " is no tensor" + (writable ? " that can be written." : ".")).c_str());
    if (writable) take(held_);
    else take(held_read_only_);
  }

  int64_t size(int dimension) const { return dimension < tensor_.ndim ? tensor_.shape[dimension] : -1; }
  int dimensions() const { return tensor_.ndim; }

  // Bits of signed integers; 0 where its numbers are others.
  int integer_bits() const {
    return tensor_.dtype.code == uint8_t(nb::dlpack::dtype_code::Int) && tensor_.dtype.lanes == 1 ? tensor_.dtype.bits : 0;
  }

  int64_t nbytes() const {
    int64_t count = 1;
    for (int i = 0; i < tensor_.ndim; ++i) count *= tensor_.shape[i];
    return count * (tensor_.dtype.bits / 8);
  }

  // The address of a contiguous CPU tensor of any dtype.
  void *address() const {
    if (tensor_.device.device_type != nb::device::cpu::value) refuse("must be on the CPU.");
    if (!is_contiguous()) refuse("must be contiguous.");
    if (!tensor_.data && nbytes() > 0) refuse("has no memory.");
    return static_cast<char *>(tensor_.data) + tensor_.byte_offset;
  }

  // The same, of dtype T and this shape; -1 stands for any size.
  template <typename T>
  void *address(std::initializer_list<int64_t> shape) const {
    const nb::dlpack::dtype wanted = dtype_of<T>;
    bool fits = tensor_.ndim == int(shape.size()) && tensor_.dtype == wanted;
    int dimension = 0;
    for (int64_t size : shape) {
      fits = fits && (size == -1 || tensor_.shape[dimension] == size);
      ++dimension;
    }
    if (!fits) refuse("must be " + describe(wanted, int(shape.size()), shape.begin()) + ".");
    void *found = address();
    if (reinterpret_cast<uintptr_t>(found) % (wanted.bits / 8) != 0) refuse("must lie at a multiple of its element's size.");
    return found;
  }

 private:
  static const DlpackExchange *exchange_of(nb::handle object) {
    nb::handle type = object.type();
    static PyTypeObject *known_type = nullptr;  // guarded by the GIL
    static const DlpackExchange *known = nullptr;
    if (type.ptr() == reinterpret_cast<PyObject *>(known_type)) return known;
    nb::object capsule = nb::getattr(type, "__dlpack_c_exchange_api__", nb::none());
    if (capsule.is_none()) return nullptr;
    auto api = static_cast<const DlpackExchange *>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!api) throw nb::python_error();
    if (api->header.major != nb::dlpack::major_version || !api->view) return nullptr;
    type.inc_ref();  // a type that is remembered must not be freed and its address taken by another
    known_type = reinterpret_cast<PyTypeObject *>(type.ptr());
    return known = api;
  }

  template <typename Array>
  void take(const Array &array) {
    tensor_.data = const_cast<void *>(static_cast<const void *>(array.data()));
    tensor_.device = {array.device_type(), array.device_id()};
    tensor_.ndim = int32_t(array.ndim());
    tensor_.dtype = array.dtype();
    tensor_.shape = const_cast<int64_t *>(array.shape_ptr());
    tensor_.strides = const_cast<int64_t *>(array.stride_ptr());
  }

  bool is_contiguous() const {
    if (!tensor_.strides) return true;
    int64_t expected = 1;
    bool empty = false, contiguous = true;
    for (int i = tensor_.ndim - 1; i >= 0; --i) {
      empty = empty || tensor_.shape[i] == 0;
      contiguous = contiguous && (tensor_.shape[i] == 1 || tensor_.strides[i] == expected);
      expected *= tensor_.shape[i];
    }
    return empty || contiguous;
  }

  static std::string describe(nb::dlpack::dtype dtype, int dimensions, const int64_t *shape) {
    using Code = nb::dlpack::dtype_code;
    std::string text;
    switch (Code(dtype.code)) {
      case Code::Int: text = "int"; break;
      case Code::UInt: text = "uint"; break;
      case Code::Float: text = "float"; break;
      case Code::Bfloat: text = "bfloat"; break;
      case Code::Bool: text = "bool"; break;
      default: text = "dtype " + std::to_string(dtype.code) + " of bits "; break;
    }
    text += std::to_string(dtype.bits) + " (";
    for (int i = 0; i < dimensions; ++i)
      text += (i ? ", " : "") + (shape[i] == -1 ? std::string("any") : std::to_string(shape[i]));
    return text + ")";
  }

  [[noreturn]] void refuse(const std::string &demand) const {
    throw nb::value_error((name_ + " is " + describe(tensor_.dtype, tensor_.ndim, tensor_.shape) + " and " + demand).c_str());
  }

  std::string name_;
  nb::dlpack::dltensor tensor_{};
  nb::ndarray<> held_;
  nb::ndarray<nb::ro> held_read_only_;
};

}  // namespace kbit
