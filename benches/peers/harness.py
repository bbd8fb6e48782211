"""Measures rows: both sides in turn, pair by pair, and what both gave. `run` says how to call it."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from rows import Folder, Input, Start, all_rows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"
RESULTS = HERE / "results"

PAIRS = 7
# How long a side works at a time, at least; and how long all pairs of a case with a peer may take.
SLOT = 0.1
BUDGET = 6.0
# Threads of the side that was timed last may still spin, waiting for work.
PAUSE = 0.03


class Program:
    """A program that answers commands; one for each number of threads."""

    COMMANDS = {
        "taper": [str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "taper-peers")],
        "python": [sys.executable, str(HERE / "server.py")],
    }

    def __init__(self, name, threads):
        limits = {f"{library}_NUM_THREADS": str(threads) for library in ("RAYON", "OMP", "OPENBLAS", "MKL")}
        self.process = subprocess.Popen(
            self.COMMANDS[name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, **limits},
        )

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        status, *answer = (self.process.stdout.readline() or "error it ended").split()
        if status != "ok":
            raise RuntimeError(" ".join(answer))
        return {name: float(value) for name, value in (word.split("=") for word in answer)}

    def load(self, side, inputs):
        self.ask("load", side.work, *(f"{name}={inputs.path(value)}" for name, value in side.arguments.items()))

    def seconds(self, at_least):
        time.sleep(PAUSE)
        return self.ask("time", at_least)["seconds"]

    def save(self, name):
        folder = WORK / "outputs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        said = self.ask("save", folder)
        return said, lambda array: np.load(folder / f"{array}.npy")

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Inputs:
    """Where inputs lie, written when first asked for."""

    def path(self, value):
        if isinstance(value, Start):
            return self.start(value)
        if isinstance(value, Folder):
            return self.folder(value)
        if not isinstance(value, Input):
            return value
        path = WORK / "inputs" / f"{value.name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            array = value.make()
            array = array.astype("<i8" if array.dtype.kind == "i" else "<f4")
            np.save(path, np.ascontiguousarray(array))
        return path

    def folder(self, value):
        folder = WORK / "inputs" / value.name
        if not folder.exists():
            temporary = folder.with_suffix(".new")
            temporary.mkdir(parents=True, exist_ok=True)
            for name, array in value.make().items():
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(array.astype("<f4")))
            temporary.rename(folder)
        return folder

    def start(self, start):
        folder = WORK / "inputs" / start.name
        if not folder.exists():
            program = Program("taper", 1)
            program.load(start, self)
            program.ask("time", 0)
            temporary = folder.with_suffix(".new")
            temporary.mkdir(parents=True, exist_ok=True)
            program.ask("save", temporary)
            program.end()
            temporary.rename(folder)
        return folder


def measure(case, peer_name, threads, programs, inputs, quick):
    """One case against one peer: ratios pair by pair, times, errors, and the share of the machine's limit."""
    peer = case.peers[peer_name]
    # Two works of the Rust program are two processes.
    ours = programs("taper", threads)
    theirs = programs(peer.side.program, threads, "peer")
    ours.load(case.ours, inputs)
    theirs.load(peer.side, inputs)
    # The first call finds caches and threads cold, which matters where it is short.
    once = tuple(first if (first := side.seconds(0)) > 1 else side.seconds(0) for side in (ours, theirs))
    slots = [0 if seconds > SLOT else SLOT for seconds in once]
    a_pair = sum(max(seconds, slot) for seconds, slot in zip(once, slots)) + 2 * PAUSE
    most = 3 if case.plot_only else PAIRS
    pairs = 1 if quick else max(1, min(most, int(BUDGET / a_pair)))
    # One that took longer than all pairs may is measured already.
    times = [once] if pairs == 1 else []
    while len(times) < pairs:
        sides = [(0, ours), (1, theirs)]
        if len(times) % 2:
            sides.reverse()
        pair = [0.0, 0.0]
        for i, side in sides:
            pair[i] = side.seconds(0 if quick else slots[i])
        times.append(tuple(pair))
    said, load = ours.save("ours")
    error = case.error(load)
    sizes = [float(load("file_bytes")[0])] if case.sized else []
    _, load = theirs.save("peer")
    peer_error = case.error(load)
    sizes += [float(load("file_bytes")[0])] if case.sized else []
    fma = case.multiply_adds(said) if case.multiply_adds else 0.0
    rates = ours.ask("machine", int(case.bytes or 1 << 28))
    limit = max(fma / rates["fma"], (case.bytes or 0.0) / rates["bandwidth"])
    seconds = [float(np.median(side)) for side in zip(*times)]
    return {
        "case": case.name,
        "peer": peer_name,
        "threads": threads,
        "target": peer.target,
        "ratios": [theirs / ours for ours, theirs in times],
        "seconds": seconds,
        "errors": [error, peer_error],
        "equal": error <= max(1.005 * peer_error, case.rounding) and (not sizes or sizes[0] < sizes[1]),
        "multiply_adds": fma,
        "bytes": case.bytes,
        "rates": rates,
        "share": limit / seconds[0],
        "by": "multiply-adds" if fma / rates["fma"] >= (case.bytes or 0.0) / rates["bandwidth"] else "bytes",
        "size": case.size,
        "plot_only": case.plot_only,
        "said": said,
        "sizes": sizes,
    }


def keep(row, results):
    """Puts results in the place of those of the same case, peer and number of threads."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{row.name}.json"
    kept = json.loads(path.read_text())["results"] if path.exists() else []
    key = lambda result: (result["case"], result["peer"], result["threads"])
    merged = {key(result): result for result in kept} | {key(result): result for result in results}
    # In the order of the rows, without what is no case any more.
    order = [(case.name, peer, threads) for case in row.cases for peer in case.peers for threads in case.threads]
    ordered = [merged[key] for key in order if key in merged]
    path.write_text(json.dumps({"machine": machine(), "results": ordered}, indent=1) + "\n")


def machine():
    model, vectors = platform.processor(), ""
    for line in open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        if name.strip() == "flags":
            known = {"avx512f": "AVX-512", "avx2": "AVX2"}
            vectors = next((said for flag, said in known.items() if flag in value.split()), "")
            break
    lines = (HERE / "requirements.txt").read_text().splitlines()
    names = [line.split("==")[0] for line in lines if line and not line.startswith("#")]
    rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()
    return {
        "processor": model,
        "vectors": vectors,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "rust": rust[1] if len(rust) > 1 else "",
        "versions": {name: version(name) for name in names},
    }


def main(words):
    flags = {word for word in words if word.startswith("--")}
    chosen = [word.partition("/")[::2] for word in words if not word.startswith("--")]
    rows = all_rows()
    unknown = {name for name, _ in chosen} - {row.name for row in rows}
    unknown |= flags - {"--quick", "--inputs", "--page", "--list", "--threads=1", "--threads=2"}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the rows are {', '.join(row.name for row in rows)}")
    quick = "--quick" in flags
    if flags & {"--page"}:
        import page

        return page.write(rows)
    inputs, running = Inputs(), {}

    def programs(name, threads, role=""):
        key = name, threads, role
        if key not in running:
            running[key] = Program(name, threads)
        return running[key]

    failed = False
    for row in rows:
        parts = [part for name, part in chosen if name == row.name]
        if chosen and not parts:
            continue
        cases = [case for case in row.cases if not parts or any(part in case.name for part in parts)]
        if quick:
            cases = [case for case in cases if case.quick]
        results = []
        for case in cases:
            if "--list" in flags:
                print(f"{row.name}/{case.name}: {', '.join(case.peers)}")
                continue
            for side in (case.ours, *(peer.side for peer in case.peers.values())):
                for value in side.arguments.values():
                    inputs.path(value)
            if "--inputs" in flags:
                continue
            for threads in case.threads:
                if any(flag.startswith("--threads=") and flag != f"--threads={threads}" for flag in flags):
                    continue
                for peer in case.peers:
                    try:
                        result = measure(case, peer, threads, programs, inputs, quick)
                    except RuntimeError as error:
                        failed = True
                        print(f"{row.name}/{case.name}, {peer}: {error}", flush=True)
                        continue
                    results.append(result)
                    ratios = np.array(result["ratios"])
                    print(
                        f"{row.name}/{case.name}, {peer}, {threads} threads: {np.median(ratios):.2f}"
                        f" ({ratios.min():.2f} to {ratios.max():.2f}), {result['seconds'][0]:.3g} s and {result['seconds'][1]:.3g} s,"
                        f" errors {result['errors'][0]:.4g} and {result['errors'][1]:.4g}, {100 * result['share']:.0f} % of the limit",
                        flush=True,
                    )
                    if not quick:
                        keep(row, results)
        for program in running.values():
            program.end()
        running.clear()
    if not chosen and not flags:
        import page

        page.write(rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
