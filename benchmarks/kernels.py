"""How near do the kernels come to what the memory of their device can do?

    python -m benchmarks.kernels --gpu --out DIR       every test and every timing on a CUDA device, a table last
    python -m benchmarks.kernels --gpu --tune          tries launch settings, and prints what is worth keeping
    python -m benchmarks.kernels --cpu [--json]        the naive paths on this processor
    python -m benchmarks.kernels --interpret --out DIR the same program as --gpu on small shapes, without a GPU: its
                                                       figures mean nothing, but that it runs does

`--gpu` needs torch, triton, numpy and pytest, nothing else, and ends within eight minutes: timings whose turn has not
come by then are listed as skipped, and the last table says of how many figures each bar has the worst and the best.
What is measured is in `kernels.json` at once, for whom a limit of the machine ends the program sooner.
Figures are medians (`triton.testing.do_bench`, which empties the L2 cache between runs) over data larger than any
cache; ratios are to a device copy, or to a peer, timed in the same call. DIR gets `kernels.json`, `kernels.txt` and the
tests' output.
"""

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS_SECONDS = 200.0
SECONDS = 440.0


def run_tests(out: Path, interpret: bool) -> str:
    """How the kernels' own tests end, on the device or, one file of them, in the interpreter."""
    folder = ROOT / "tests" / "kernels"
    # others ask for the rest of the project, or compile for other devices
    names = ["checksum"] if interpret else ["paged", "quant", "shuffle", "rope", "checksum", "decode", "prefill"]
    # nothing of the project's own test settings: their plugins are not there
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", f"--confcutdir={folder}", "-W", "ignore::pytest.PytestUnknownMarkWarning"]
    command += ["-m", "not gpu and not slow" if interpret else "gpu"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    environment.pop("TRITON_INTERPRET", None)
    # side by side, the longest in parts: they spend their time compiling
    parts: list[tuple[str, str, list[str]]] = [(name, name, []) for name in names if name != "decode"]
    if "decode" in names:
        parts += [("decode", "decode", ["-k", "not equals_naive"]), ("decode_naive", "decode", ["-k", "equals_naive"])]
    running = {}
    for part, name, options in parts:
        with (out / f"tests_{part}.log").open("w") as log:
            files = [*command, *options, str(folder / f"test_{name}.py")]
            running[part] = subprocess.Popen(files, stdout=log, stderr=log, env=environment, cwd=ROOT)
    until = time.monotonic() + TESTS_SECONDS
    ends = []
    for part, process in running.items():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ends.append(f"{part}: not done after {TESTS_SECONDS:g} s")
            continue
        lines = (out / f"tests_{part}.log").read_text().strip().splitlines()
        ends.append(f"{part}: {lines[-1] if lines else 'no output'}")
    return "; ".join(ends)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    kind = parser.add_mutually_exclusive_group(required=True)
    for name in ("gpu", "cpu", "interpret"):
        kind.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/kernels"))
    parser.add_argument("--json", action="store_true", help="with --cpu: one JSON object")
    parser.add_argument(
        "--rows", nargs="+", default=[""], metavar="PREFIX", help="only rows that start with one of these"
    )
    parser.add_argument("--tune", action="store_true", help="launch settings instead of tests and timings")
    parser.add_argument("--no-tests", action="store_true", help="timings only")
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    if arguments.cpu:
        from benchmarks import kernels_host

        kernels_host.measure(arguments.json)
        return
    until = time.monotonic() + SECONDS
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    if arguments.tune:
        from benchmarks import kernels_tuning
        from benchmarks.kernels_timing import Bench

        kernels_tuning.tune(Bench(interpret=arguments.interpret, until=until, notes={}), arguments.rows)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    tests = "not run" if arguments.no_tests else run_tests(arguments.out, arguments.interpret)
    print(f"tests: {tests}", flush=True)

    from benchmarks import kernels_device
    from benchmarks.kernels_timing import Bench, about

    bench = Bench(arguments.interpret, until, {"tests": tests, **about()}, arguments.out)
    try:
        kernels_device.measure(bench, arguments.rows)
    finally:
        bench.save()


if __name__ == "__main__":
    main()
