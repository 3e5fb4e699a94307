// An integer-only program: a transformer as a list of steps over numbered buffers, matrices and integers. It may come from a file
// that nobody vouches for: `fault_of` says what is wrong with it, and nothing runs before that says nothing.
//
// Row i of a buffer belongs to token i of a call. To add an operator: a line in FixedOp, its check in fixed_program.cpp, a
// function and a line in the table of fixed_decoder.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fixed.h"

namespace kbit {

enum class FixedOp : int {
  kEmbed,      // to[0] = rows of matrix[0] of the tokens
  kPositions,  // to[0] += rows of tensor[0] of the positions, << numbers[0]
  kHadamard,   // from[0], in place; numbers: how many together, shift
  kRmsNorm,  // to[0] = norm of from[0], each numbers[0] by themselves; tensor[0] gamma, bias[0]; numbers: width, shift, epsilon,
             // least
  kLayerNorm,  // the same
  kQuantize,   // to[0] = codes of from[0]; numbers: k, a, e, width of the transform before
  kLinear,     // to[j] = from[0] matrix[j]^T scaled by multiplier[j] and shift[j], + bias[j]; j = 0 .. 2 as far as there are any
  kRotate,     // from[0], in place, by tensor[0] cosine and tensor[1] sine; numbers: head, how many of it rotate
  kStore,      // keys from[0] and values from[1] into the cache; numbers: layer, k
  kAttend,     // to[0] = attention of queries from[0]; numbers: layer, multiplier and shift of scores, k of values
  kGate,       // to[0] = act(from[0]) * from[1] by the curve `table`; numbers: places of from[0]
  kActivate,   // to[0] = act(from[0])
  kAdd,        // to[0] += from[0]
  kLast,       // to[0] = the last row of from[0]; all rows where logits of all are asked for
  kCount
};
FixedOp fixed_op_of(const std::string &name);  // kCount: there is none

constexpr int kMostProducts = 3;

struct FixedStep {  // numbers of operands, -1 for none
  FixedOp op = FixedOp::kCount;
  std::vector<int> from, to, matrix, multiplier, shift, bias, tensor;
  std::vector<int64_t> numbers;
  int table = -1;
};

enum class FixedKind { kInt16, kInt32, kRows };  // kRows: codes of 8 bits, and the step of each row
struct FixedBuffer {
  int64_t width;
  FixedKind kind;
};

// Integers of 8, 16 or 32 bits, (rows, columns) or (columns); a copy, so that nobody changes it after the check.
struct FixedTensor {
  int bits = 0;
  std::vector<int64_t> sizes;
  std::vector<uint8_t> bytes;

  template <class T>
  const T *as() const {
    return reinterpret_cast<const T *>(bytes.data());
  }
};

struct FixedCache {
  int64_t layers = 0, kv_heads = 0, head = 0;
  int k = 8;
};

struct FixedProgram {
  std::vector<FixedBuffer> buffers;   // the last is the logits
  std::vector<kbit_matrix> matrices;  // whose bytes are the caller's, and stay
  std::vector<FixedTensor> tensors;
  std::vector<std::vector<int32_t>> curves;  // that `table` names by number
  std::vector<int32_t> exp2;
  std::vector<FixedStep> steps;
  FixedCache cache;
  int64_t positions = 0;  // the most that can be read
  int64_t capacity = 0;   // that there is room for, at most `positions`

  int64_t vocabulary() const;  // tokens that it knows; of a program without fault
};

// What is wrong with the program, a sentence without its end; nothing where no step can read or write outside its operands, or
// overflow.
std::string fault_of(const FixedProgram &);

// What is wrong with a matrix of which exact products are asked for; nothing where its codes are whole numbers times one scale a
// row, or an 8-bit scale a block.
std::string fault_of_integers(const kbit_matrix &);

// The largest sum over columns of (scale of the block) * |level| of any row; -1 where a code has no level. Reads all codes.
int64_t largest_sum(const View &);

}  // namespace kbit
