// Two layouts of k-bit codes, and what a product of one row of x reads of each: kbit's tiles of bit planes, and the straight bit
// stream (code j of a row in its bits j*k .. j*k + k - 1), unpacked by the fastest way that a CPU has for it: one vpermb and one
// vpmultishiftqb for 64 codes of any k (AVX-512 VBMI). Linear codes, blocks of 64, a scale of 16 bits to a block.
//
//   cmake -S kbit/kernels/csrc -B build/layouts -DKBIT_PYTHON=OFF && cmake --build build/layouts
//   g++ -O2 -std=c++17 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi -mf16c -mfma -I kbit/kernels/csrc \
//       benchmarks/layouts.cpp build/layouts/libkbit_kernels.a -lpthread -o build/layouts/layouts && build/layouts/layouts
//
// The stream's sums are kept in 16 lanes to the end of a row, which is cheaper than the tiles' order of
// additions and depends on the width of a register; it is here to be compared in speed alone.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kbit.h"

namespace {

constexpr int64_t kOut = 4096, kIn = 4096, kBlock = 64, kBlocks = kIn / kBlock;
constexpr size_t kRotate = size_t{256} << 20;  // bytes of weights that take turns: beyond the last-level cache
constexpr int kRounds = 60;

// y = w x: codes (kOut, kIn * k / 8), scales (kOut, kBlocks) float16, x as int8 with a scale to a block.
template <int K>
void stream_product(const uint8_t *codes, const uint16_t *scales, const int8_t *x, const float *x_scale, const int32_t *x_sum,
                    float *y) {
  alignas(64) uint8_t order[64], shifts[64];
  for (int i = 0; i < 64; ++i) {
    const int qword = i / 8, lane = i % 8;
    order[i] = static_cast<uint8_t>(std::min(qword * K + lane, 63));  // K bytes hold the 8 codes of a qword
    shifts[i] = static_cast<uint8_t>(lane * K);
  }
  const __m512i permutation = _mm512_load_si512(order), places = _mm512_load_si512(shifts), mask = _mm512_set1_epi8((1 << K) - 1);
  const __mmask64 bytes = K == 8 ? ~0ull : (1ull << (8 * K)) - 1;
  const int offset = K > 1 ? (1 << (K - 1)) - 1 : 0;
  for (int64_t row = 0; row < kOut; ++row) {
    __m512 acc = _mm512_setzero_ps();
    float shift = 0;
    for (int64_t b = 0; b < kBlocks; ++b, codes += 8 * K) {
      _mm_prefetch(reinterpret_cast<const char *>(codes) + 1024, _MM_HINT_T0);
      __m512i v = _mm512_maskz_loadu_epi8(bytes, codes);
      v = _mm512_and_si512(_mm512_multishift_epi64_epi8(places, _mm512_permutexvar_epi8(permutation, v)), mask);
      const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), v, _mm512_loadu_si512(x + b * kBlock));
      const float scale = _cvtsh_ss(scales[row * kBlocks + b]) * x_scale[b];
      acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale), acc);
      shift += scale * static_cast<float>(x_sum[b]);
    }
    y[row] = _mm512_reduce_add_ps(acc) - static_cast<float>(offset) * shift;
  }
}
using Stream = void (*)(const uint8_t *, const uint16_t *, const int8_t *, const float *, const int32_t *, float *);
constexpr Stream kStreams[] = {nullptr,           stream_product<1>, stream_product<2>, stream_product<3>, stream_product<4>,
                               stream_product<5>, stream_product<6>, stream_product<7>, stream_product<8>};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main() {
  kbit_set_threads(1);
  std::vector<uint8_t> memory(kRotate);
  std::mt19937_64 random(0);
  for (size_t i = 0; i + 8 <= memory.size(); i += 8) {
    const uint64_t bits = random();
    std::memcpy(&memory[i], &bits, 8);
  }
  std::vector<float> x(kIn), y(kOut), x_scale(kBlocks, 0.01f);
  std::vector<int8_t> q(kIn);
  std::vector<int32_t> x_sum(kBlocks, 0);
  for (int64_t i = 0; i < kIn; ++i) x[i] = static_cast<float>(q[i] = static_cast<int8_t>(random() % 255 - 127)) * 0.01f;
  std::printf("%s, 1 thread, %ld x %ld, blocks of %ld\n", kbit_isa(), long(kOut), long(kIn), long(kBlock));
  std::printf("k  read GB/s   tiles ms  GB/s   stream ms  GB/s   stream / tiles\n");
  for (int k = 1; k <= 8; ++k) {
    const size_t code_bytes = kOut * kIn * k / 8, all = code_bytes + 2 * kOut * kBlocks, copies = kRotate / all;
    std::vector<double> tiles, stream, reads;
    for (int round = 0; round < kRounds; ++round) {
      const uint8_t *at = memory.data() + round % copies * all;
      kbit_matrix w{};
      w.n_out = kOut, w.n_in = kIn, w.block = kBlock, w.k = k, w.coding = KBIT_LINEAR, w.step = 1;
      w.first = k > 1 ? 1 - (1 << (k - 1)) : -1, w.rise = k > 1 ? 1 : 2;
      w.codes = at, w.scale = at + code_bytes;
      double start = seconds();
      kbit_product(&w, x.data(), 1, kIn, y.data(), kOut, KBIT_INT8);
      tiles.push_back(seconds() - start);
      at = memory.data() + (round + copies / 2) % copies * all;
      start = seconds();
      kStreams[k](at, reinterpret_cast<const uint16_t *>(at + code_bytes), q.data(), x_scale.data(), x_sum.data(), y.data());
      stream.push_back(seconds() - start);
      reads.push_back(kbit_read_bandwidth(memory.data(), size_t{64} << 20, 1, 1));
    }
    const double a = median(tiles), b = median(stream);
    std::printf("%d  %6.1f      %6.3f   %6.1f   %6.3f    %6.1f   %5.2f\n", k, median(reads) / 1e9, 1e3 * a, all / a / 1e9,
                1e3 * b, all / b / 1e9, b / a);
  }
}
