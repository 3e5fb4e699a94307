"""How fast is the product of a packed matrix at each k, beside other programs' products and beside what memory can deliver?

Candidates take turns in one process, a streaming read among them; weights are copies that together exceed the last-level cache.
With 1 thread all peers share a process; with more each has one of its own beside kbit, since idle pools spin. Peers that are not
installed are named and left out; benchmarks/peers/ says how they are called. A ratio is that of medians from one process.

    python benchmarks/product_speed.py --shape 4096x4096 --batch 1 --threads 1 --json > rows.jsonl
    python benchmarks/product_speed.py --table rows.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from peers import LIBRARIES, NotInstalled, library
from peers.turns import Candidate, Turns, machine, read_rows, say, spread, take_turns

import kbit
from kbit import kernels
from kbit.formats import Format
from kbit.kernels.bench import to_read
from kbit.models.bench import copies_of
from kbit.packed import PackedTensor

SHAPES = ["4096x4096", "11008x4096", "4096x11008"]  # out x in, of Llama 7B
BATCHES = [1, 8, 32, 128, 512]
FORMATS = [*(f"int{k}-b64" for k in range(1, 9)), "ternary-b64", *(f"nf{k}-b64" for k in range(2, 9))]
EXACT_IN_BATCHES = ["int2-b64", "int4-b64", "nf4-b64", "int8-b64"]  # of large batches: all k take the same way there
LARGE_BATCH = 32
SAMPLE_ROWS = 256  # rows that are quantized; the others repeat them
SETTLE_SECONDS = 0.02  # idle threads of OpenMP and of onnxruntime have stopped spinning by then
WRONG = {"int8": 0.03, "exact": 1e-5}  # error of a product against its dequantized weight, relative


def main() -> None:
    """Parse; measure in processes of their own, or here; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="OUTxIN", help="Shapes of the weight.")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="Numbers of tokens.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="Numbers of threads.")
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="Formats of kbit.")
    parser.add_argument("--compute", nargs="+", default=["int8", "exact"], help="What kbit makes of activations.")
    parser.add_argument("--peers", nargs="*", default=list(LIBRARIES), help=f"Among {', '.join(LIBRARIES)}.")
    parser.add_argument("--seconds", type=float, default=12.0, help="For each shape, batch, number of threads and process.")
    parser.add_argument("--rounds", type=int, default=3, help="At least so many turns of each.")
    parser.add_argument("--json", action="store_true", help="Print a JSON line for each candidate instead of tables.")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="Measure nothing: tables of rows from --json.")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        for row in measure(options):
            print(json.dumps(row), flush=True)
        return
    if options.table:
        print("\n".join(tables(read_rows(options.table))))
        return
    rows = []
    for row in run_all(options):
        rows.append(row)
        if options.json:
            print(json.dumps(row), flush=True)
    if not options.json:
        print("\n".join(tables(rows)))


def run_all(options: argparse.Namespace) -> Iterator[dict]:
    """The rows of all processes, after one that says what was measured where."""
    versions = [f"kbit {version('kbit')} ({kernels.isa()})", f"torch {torch.__version__}"]
    installed = []
    for name in options.peers:
        try:
            versions.append(library(name).about())
            installed.append(name)
        except NotInstalled as missing:
            say(str(missing))
    yield {"machine": machine(), "versions": list(dict.fromkeys(versions)), "command": " ".join(["python", *sys.argv])}
    for threads in options.threads:
        together = [installed] if threads == 1 else [[name] for name in installed] or [[]]
        for peers in together:
            say(f"{threads} threads beside {', '.join(peers) or 'nobody'}")
            given = [f"--{name}={getattr(options, name)}" for name in ("seconds", "rounds")]
            for name in ("shape", "batch", "formats", "compute"):
                given += [f"--{name}", *map(str, getattr(options, name))]
            command = [sys.executable, __file__, "--here", *given, "--threads", str(threads), "--peers", *peers]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
                assert process.stdout is not None
                yield from (json.loads(line) for line in process.stdout)
            if process.returncode:
                sys.exit(f"the process beside {', '.join(peers)} failed with exit code {process.returncode}")


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """Rows of this process: kbit and some peers, for each shape and batch."""
    (threads,) = options.threads
    torch.set_num_threads(threads)
    data = to_read()
    for text in options.shape:
        shape = (int(text.split("x")[0]), int(text.split("x")[1]))
        for batch in options.batch:
            candidates = list(ours(options, shape, batch))
            for name in options.peers:
                candidates += library(name).candidates(shape, batch, threads)
            torch.set_num_threads(threads)
            found = take_turns(
                {f"{one.who} {one.name}": one.turn for one in candidates},
                data,
                seconds=options.seconds,
                least=options.rounds,
                settle=SETTLE_SECONDS if threads > 1 else 0.0,
            )
            setting = {"out": shape[0], "in": shape[1], "batch": batch, "threads": threads, "beside": " ".join(options.peers)}
            yield from rows_of(candidates, found, setting)


def rows_of(candidates: list[Candidate], found: Turns, setting: dict) -> Iterator[dict]:
    """One row to a candidate, the read of memory first."""
    weights = setting["out"] * setting["in"]
    low, ceiling, high = (value / 1e9 for value in spread(found.ceilings))
    common = setting | {"rounds": max(map(len, found.seconds.values()), default=0), "other_cores": round(found.other_cores, 2)}
    yield common | {
        "who": "memory",
        "name": "read",
        "gbps": round(ceiling, 2),
        "gbps_low": round(low, 2),
        "gbps_high": round(high, 2),
    }
    for one in candidates:
        if not (seconds := found.seconds.get(f"{one.who} {one.name}")):
            continue
        low, middle, high = (value / one.copies for value in spread(seconds))
        yield common | {
            "who": one.who,
            "name": one.name,
            "width": one.width,
            "scales": one.scales,
            "activations": one.activations,
            "bits": round(one.n_bytes * 8 / weights, 3),
            "ms": round(middle * 1e3, 4),
            "ms_low": round(low * 1e3, 4),
            "ms_high": round(high * 1e3, 4),
            "gbps": round(one.n_bytes / middle / 1e9, 2),
            "share": round(one.n_bytes / middle / 1e9 / ceiling, 3),
            "gmacs": round(weights * setting["batch"] / middle / 1e9, 1),
        }


def ours(options: argparse.Namespace, shape: tuple[int, int], batch: int) -> Iterator[Candidate]:
    """kbit's products of each format, int8 and exact."""
    x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(0))
    for text in options.formats:
        packed = random_packed(Format.parse(text), shape)
        copies = [copied(packed) for _ in range(copies_of(packed.nbytes, batch))]
        for compute in options.compute:
            if compute == "exact" and batch >= LARGE_BATCH and text not in EXACT_IN_BATCHES:
                continue
            yield candidate(packed, copies, x, compute)


def candidate(packed: PackedTensor, copies: list[PackedTensor], x: torch.Tensor, compute: str) -> Candidate:
    """A Candidate of copies of one packed weight; its product is checked once against the dequantized weight."""
    fmt, y = packed.fmt, torch.empty(len(x), packed.shape[0])
    products = [copy.native.product for copy in copies]

    def turn() -> None:
        for product in products:
            product(x, y, compute)

    turn()
    expected = x @ packed.dequantize()[:SAMPLE_ROWS].T
    error = float((y[:, -SAMPLE_ROWS:] - expected).norm() / expected.norm())
    assert error < WRONG[compute], f"{fmt} {compute}: the product is off by {error:.2g} of the result"
    width = "ternary" if fmt.codebook == "ternary" else str(fmt.k)
    activations = "int8 by 64" if compute == "int8" else "float32"
    return Candidate("kbit", f"{fmt} {compute}", width, "64", activations, packed.nbytes, len(copies), turn)


def random_packed(fmt: Format, shape: tuple[int, int]) -> PackedTensor:
    """A packed weight of normally distributed numbers: SAMPLE_ROWS rows, over and over."""
    n_out, n_in = shape
    rows = math.gcd(n_out, SAMPLE_ROWS)
    rows = rows if rows % 16 == 0 else n_out  # parts of whole tiles may be laid one after another
    sample = kbit.pack(torch.randn(rows, n_in, generator=torch.Generator().manual_seed(0)), fmt)
    parts = {suffix: part if suffix == "_levels" else part.repeat(n_out // rows) for suffix, part in sample.parts().items()}
    return PackedTensor.from_parts(fmt, shape, parts)


def copied(packed: PackedTensor) -> PackedTensor:
    """The same bits at another place."""
    return PackedTensor.from_parts(packed.fmt, packed.shape, {suffix: part.clone() for suffix, part in packed.parts().items()})


def tables(rows: list[dict]) -> list[str]:
    """Rows as tables in Markdown, one for each number of threads, batch and shape."""
    lines = []
    for row in rows:
        if "machine" in row:
            lines += [f"{row['machine']}; {', '.join(row['versions'])}; `{row['command']}`", ""]
    measured = [row for row in rows if "who" in row]
    settings = dict.fromkeys((row["threads"], row["batch"], row["out"], row["in"]) for row in measured)
    for setting in settings:
        lines += table([row for row in measured if (row["threads"], row["batch"], row["out"], row["in"]) == setting])
    return lines


def table(rows: list[dict]) -> list[str]:
    """One setting: a line for each of kbit's products, with its best rivals, then a line for each peer."""
    first, reads = rows[0], [row["gbps"] for row in rows if row["who"] == "memory"]
    title = f"{first['out']} x {first['in']}, batch {first['batch']}, {first['threads']} thread{'s'[: first['threads'] > 1]}"
    busy = max(row["other_cores"] for row in rows)
    lines = [
        f"{title}: memory is read at {' / '.join(f'{read:.1f}' for read in reads)} GB/s; others kept {busy:.2f} cores busy",
        "",
        "| | bits | activations | ms (quartiles) | GB/s | of read | GMAC/s | packed peer | x | torch | x |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["name"] for row in rows if row["who"] == "kbit"):
        mine = [row for row in rows if row["name"] == name]
        cells = [cell for field in ("packed", "torch") for cell in best_ratio(mine, rivals(field, mine[0], rows))]
        lines.append(line(name, fastest(mine), cells))
    lines += [line(f"{row['who']} {row['name']}", row, [""] * 4) for row in rows if row["who"] not in ("kbit", "memory")]
    return [*lines, ""]


def line(name: str, row: dict, cells: list[str]) -> str:
    """A line of the table."""
    time = f"{row['ms']:.3f} ({row['ms_low']:.3f}-{row['ms_high']:.3f})"
    speed = f"{row['gbps']:.1f} | {row['share']:.0%} | {row['gmacs']:.0f}"
    return f"| {name} | {row['bits']:.2f} | {row['activations']} | {time} | {speed} | {' | '.join(cells)} |"


def fastest(rows: Iterable[dict]) -> dict:
    """The row of the shortest median."""
    return min(rows, key=lambda row: row["ms"])


def rivals(kind: str, mine: dict, rows: list[dict]) -> list[dict]:
    """What one of kbit's products is compared with in this setting.

    packed: the packed peers at the nearest width (at both, where two are as near); ternary with ternary. Whole rows in int8 are
    packed peers for a single token only: in batches they are what a packed product is made into. torch: its floats and its int8;
    for exact products float32. Exact products have no packed rivals: all of those round activations.
    """
    exact = mine["activations"] == "float32"
    peers = [row for row in rows if row["who"] not in ("kbit", "memory")]
    if kind == "torch":
        own = [row for row in peers if row["who"] == "torch" and not row["name"].startswith("_weight")]
        return [row for row in own if not exact or row["name"] == "float32"]
    packed = [row for row in peers if row["scales"] not in ("", "row") or (row["scales"] == "row" and row["batch"] == 1)]
    if exact or not packed:
        return []
    same = [row for row in packed if row["width"] == mine["width"]]
    if same:
        return same
    width = 2 if mine["width"] == "ternary" else int(mine["width"])
    widths = [row for row in packed if row["width"] != "ternary"]
    nearest = min((abs(int(row["width"]) - width) for row in widths), default=0)
    return [row for row in widths if abs(int(row["width"]) - width) == nearest]


def best_ratio(mine: list[dict], others: list[dict]) -> list[str]:
    """Name of the rival that comes nearest, and how many times faster kbit is beside it."""
    pairs = [(theirs["ms"] / row["ms"], theirs["name"]) for theirs in others for row in mine if row["beside"] == theirs["beside"]]
    if not pairs:
        return ["", ""]
    ratio, name = min(pairs)
    return [name, f"{ratio:.2f}"]


if __name__ == "__main__":
    main()
