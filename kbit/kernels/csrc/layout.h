// What a matrix may be, and how many bytes each of its parts has: all that must hold before a kernel reads.
#pragma once

#include <cstdint>
#include <string>

#include "kbit.h"

namespace kbit {

// Bytes of the parts of a matrix whose numbers `fault_of` finds no fault with; 0 where it has no such part.
struct PartBytes { int64_t codes, scale, second_scale, zero, shift, levels, integer_levels, kept_columns, kept_weight; };

// Where the numbers of a matrix contradict each other: a sentence, or nothing where they agree. Reads no pointer.
inline std::string fault_of(const kbit_matrix &m) {
  constexpr int64_t kMostRows = INT32_MAX, kMostWeights = int64_t(1) << 48;  // far from where sizes in bytes leave int64
  const auto outside = [](const char *name, int64_t value, int64_t low, int64_t high) {
    if (low <= value && value <= high) return std::string();
    return std::string(name) + " is " + std::to_string(value) + ", not " + std::to_string(low) + " to " + std::to_string(high);
  };
  std::string fault;
  const auto check = [&](const char *name, int64_t value, int64_t low, int64_t high) {
    if (fault.empty()) fault = outside(name, value, low, high);
  };
  check("n_out", m.n_out, 1, kMostRows);
  check("n_in", m.n_in, 1, kMostRows);
  if (fault.empty()) check("n_in", m.n_in, 1, kMostWeights / m.n_out);
  check("n_kept", m.n_kept, 0, m.n_in - 1);
  check("block", m.block, 1, INT64_MAX);
  check("k", m.k, 1, 8);
  check("coding", m.coding, KBIT_LINEAR, KBIT_TERNARY);
  check("scales", m.scales, KBIT_F16, KBIT_I8);
  check("per_tensor", m.per_tensor, 0, 1);
  if (!fault.empty()) return fault;
  if (m.per_tensor) check("block of a matrix with one scale", m.block, m.n_in - m.n_kept, INT64_MAX);
  if (m.coding == KBIT_TERNARY) check("k of ternary", m.k, 2, 2);
  if (m.coding == KBIT_LINEAR) {
    check("rise", m.rise, 1, m.k == 1 && m.first == -1 ? 2 : 1);
    check("first", m.first, -(1 << (m.k - 1)), 0);
  } else {
    check("integer_bits", m.integer_bits, 8, 16);
    if (m.integer_bits != 8) check("integer_bits", m.integer_bits, 16, 16);
  }
  return fault;
}

// The sizes that the layout gives a matrix. Zero points and shifts are parts where the caller says so.
inline PartBytes part_bytes(const kbit_matrix &m, bool has_zero, bool has_shift) {
  constexpr int64_t kLine = 64;
  const auto pad = [](int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; };
  const int64_t coded = m.n_in - m.n_kept, columns = pad(coded, KBIT_UNIT_COLUMNS), rows = pad(m.n_out, KBIT_TILE_ROWS);
  const int64_t blocks = m.block >= coded ? 1 : (coded - 1) / m.block + 1;
  const int64_t n_scales = m.per_tensor ? 1 : rows * blocks;
  PartBytes bytes{};
  bytes.codes = pad(m.coding == KBIT_TERNARY ? rows * ((columns + 4) / 5) : rows * columns / 8 * m.k, kLine);
  bytes.scale = pad(n_scales * (m.scales == KBIT_F16 ? 2 : 1), kLine);
  if (m.scales == KBIT_S8) bytes.second_scale = pad(2 * rows * ((blocks - 1) / KBIT_SECOND_LEVEL + 1), kLine);
  if (m.scales == KBIT_I8) bytes.second_scale = pad(2 * rows, kLine);
  if (has_zero) bytes.zero = pad((n_scales * m.k + 7) / 8, kLine);
  if (has_shift) bytes.shift = pad(2 * n_scales, kLine);
  bytes.levels = 4 * (int64_t(1) << m.k);
  if (m.coding != KBIT_LINEAR) bytes.integer_levels = 2 * (int64_t(1) << m.k);
  if (m.n_kept) bytes.kept_columns = pad(4 * m.n_kept, kLine);
  if (m.n_kept) bytes.kept_weight = pad(2 * rows * m.n_kept, kLine);
  return bytes;
}

// Whether the columns ascend within the matrix and the integer levels have the bits that they claim; else a sentence.
inline std::string fault_of_values(const kbit_matrix &m) {
  for (int64_t j = 0; j < m.n_kept; ++j)
    if (m.kept_columns[j] < (j ? m.kept_columns[j - 1] + 1 : 0) || m.kept_columns[j] >= m.n_in)
      return "its kept columns are not ascending columns of its " + std::to_string(m.n_in);
  if (m.coding == KBIT_LINEAR) return "";
  for (int i = 0; i < 1 << m.k; ++i) {
    const int level = m.integer_levels[i];
    if (m.coding == KBIT_TERNARY && level != (i < 2 ? i - 1 : 1)) return "its integer levels are not those of ternary";
    if (m.integer_bits == 8 && (level < INT8_MIN || level > INT8_MAX)) return "its integer levels do not fit 8 bits";
  }
  return "";
}

// Columns of a row of codes are cut into segments: blocks, each cut again after every KBIT_SEGMENT columns.
inline int64_t n_segments(const kbit_matrix &m) {
  const auto parts = [](int64_t size) { return (size + KBIT_SEGMENT - 1) / KBIT_SEGMENT; };
  const int64_t coded = m.n_in - m.n_kept;
  return m.block >= coded ? parts(coded) : coded / m.block * parts(m.block) + parts(coded % m.block);
}

}  // namespace kbit
