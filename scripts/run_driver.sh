#!/usr/bin/env bash
# Build the driver of the kernels, make its test vectors, run it: run_driver.sh NAME [CMake options]. `neon` is cross-compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
shift
run() { "$1" build/vectors.bin build/programs.bin; }

if [ "$name" = neon ] && [ "$(uname -m)" != aarch64 ]; then
  for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$tool" >/dev/null || { echo "no $tool here (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)"; exit 1; }
  done
  set -- -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_EXE_LINKER_FLAGS=-static "$@"
  run() { # with dot products, and a processor without
    for processor in max cortex-a53; do qemu-aarch64 -cpu "$processor" "$1" build/vectors.bin build/programs.bin || return 1; done
  }
fi

cmake -S kbit/kernels/csrc -B "build/$name" -DKBIT_PYTHON=OFF -DKBIT_DRIVER=ON -DKBIT_WERROR=ON "$@" >/dev/null
cmake --build "build/$name" --parallel 2
.venv/bin/python -m tests.kernels.make_vectors build/vectors.bin
.venv/bin/python -m tests.kernels.make_programs build/programs.bin
run "build/$name/driver"
