#include "view.h"

namespace kbit {

View::View(const kbit_matrix &matrix) : m(matrix) {
  coded = m.n_in - m.n_kept;
  columns = pad(coded, kUnit);
  units = columns / kUnit;
  tiles = (m.n_out + kRows - 1) / kRows;
  tile_bytes = m.coding == KBIT_TERNARY ? kRows * ((columns + 4) / 5) : kRows * columns * m.k / 8;
  const int64_t block = m.block < coded ? m.block : coded;
  blocks = (coded + block - 1) / block;
  if (m.n_kept) {
    for (int64_t column = 0, j = 0; column < m.n_in; ++column) {
      if (j < m.n_kept && m.kept_columns[j] == column) ++j;
      else coded_columns.push_back(static_cast<int32_t>(column));
    }
  }
  by_units = by_groups = true;
  steps = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t end = (b + 1) * block < coded ? (b + 1) * block : coded;
    for (int64_t column = b * block; column < end; column += KBIT_SEGMENT) {
      const int64_t column_end = column + KBIT_SEGMENT < end ? column + KBIT_SEGMENT : end;
      const int64_t count = (column_end + kGroup - 1) / kGroup - column / kGroup;
      segments.push_back({column, column_end, b, steps, steps + count});
      steps += count;
      by_units = by_units && column % kUnit == 0;
      by_groups = by_groups && column % kGroup == 0;
    }
  }
  if (by_units) steps = columns / kGroup;  // up to the end of the last unit, so that whole units are multiplied
  q_stride = 64 * (pad(kGroup * steps, 64) / 64 | 1);
  x_stride = 16 * (pad(columns, 16) / 16 | 1);
}

}  // namespace kbit
