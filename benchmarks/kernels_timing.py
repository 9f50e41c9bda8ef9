"""What kernel timings share: a clock for device and interpreter, and the figures, printed without any library."""

import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton

BARS = (
    "gather",
    "scatter",
    "quant",
    "rope",
    "decode.bandwidth",
    "decode.peer",
    "decode.int8",
    "decode.int4",
    "decode.prefetch",
    "prefill.peer",
    "checksum",
)
"""The promises, each of which the figures whose id begins so must keep; the table of them comes last."""

TIMES = ("decode.int8", "decode.int4")
"""Of these, lower is better."""


SHORT = 0.2
"""Milliseconds below which the host may be slower at launching than the device at running: timed as a graph too."""


class TimeIsUp(RuntimeError):
    """No time is left for a figure."""


@dataclass(frozen=True)
class Figure:
    """`bar` is what it must reach to keep its promise, `reach` what we would like; of times lower is better."""

    id: str
    value: float
    unit: str
    bar: float | None = None
    reach: float | None = None


@dataclass
class Bench:
    """The figures of one call, and what its clock says."""

    interpret: bool
    until: float
    notes: dict[str, str]
    folder: Path | None = None
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return "cpu" if self.interpret else "cuda"

    def size(self, real: int, small: int) -> int:
        """`real` on a device, `small` in the interpreter."""
        return small if self.interpret else real

    def seconds(self, call: Callable[[], object]) -> float:
        """The median time of a call; TimeIsUp if there is none left to take it."""
        if time.monotonic() > self.until:
            raise TimeIsUp("no time left")
        if self.interpret:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        milliseconds = _median(call)
        if milliseconds < SHORT:
            milliseconds = min(milliseconds, _replayed(call))
        return milliseconds / 1e3

    def add(self, id: str, value: float, unit: str, bar: float | None = None, reach: float | None = None) -> None:
        """One more figure, shown at once: what comes later may fail."""
        self.figures.append(Figure(id, float(f"{value:.4g}"), unit, bar, reach))
        print(f"{id} {value:.4g} {unit}", flush=True)
        self.write()

    def skip(self, id: str, error: Exception) -> None:
        """A figure that cannot be had, and why."""
        self.skipped[id] = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        self.write()

    def write(self) -> None:
        """`kernels.json` as far as it goes, after every figure: who ends this program leaves what was measured."""
        if self.folder is None:
            return
        rows, bars = [asdict(figure) for figure in self.figures], [self.bar(id) for id in BARS]
        text = json.dumps({"rows": rows, "bars": bars, "skipped": self.skipped, **self.notes}, indent=1)
        (self.folder / "kernels.json").write_text(text)

    def bar(self, id: str) -> dict[str, Any]:
        """The worst and the best of a promise's figures; None where there are none."""
        mine = [figure for figure in self.figures if f"{figure.id}.".startswith(f"{id}.")]
        values = sorted((figure.value for figure in mine), reverse=id in TIMES)
        wanted = {name: next((getattr(f, name) for f in mine if getattr(f, name)), None) for name in ("bar", "reach")}
        ends = {"worst": values[0], "best": values[-1]} if values else {"worst": None, "best": None}
        return {"id": id, "figures": len(mine), **ends, **wanted}

    def save(self) -> None:
        """Writes `kernels.json` and `kernels.txt`, and prints the latter."""
        self.write()
        bars = [self.bar(id) for id in BARS]
        lines = [f"{key}: {value}" for key, value in self.notes.items()]
        lines += [f"{'figure':44} {'value':>10} {'bar':>6} {'reach':>6}  unit"]
        for figure in self.figures:
            wanted = ("" if number is None else f"{number:g}" for number in (figure.bar, figure.reach))
            lines.append(f"{figure.id:44} {figure.value:>10g} {next(wanted):>6} {next(wanted):>6}  {figure.unit}")
        lines += [f"{id:44} skipped: {why}" for id, why in self.skipped.items()]
        lines += ["", f"{'bar':20} {'worst':>8} {'best':>8} {'bar':>6} {'reach':>6}  of"]
        for bar in bars:
            numbers = ("-" if bar[key] is None else f"{bar[key]:g}" for key in ("worst", "best", "bar", "reach"))
            cells = f"{next(numbers):>8} {next(numbers):>8} {next(numbers):>6} {next(numbers):>6}"
            lines.append(f"{bar['id']:20} {cells}  {bar['figures']} figures")
        text = "\n".join(lines)
        if self.folder is not None:
            (self.folder / "kernels.txt").write_text(text + "\n")
        print(text)


def _median(call: Callable[[], object]) -> float:
    """Milliseconds."""
    milliseconds: float = triton.testing.do_bench(call, warmup=20, rep=80, return_mode="median")
    return milliseconds


def _replayed(call: Callable[[], object]) -> float:
    """Milliseconds of the launches of `call` recorded as a graph; infinite where it cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
        return _median(graph.replay)
    except RuntimeError:
        torch.cuda.synchronize()
        return float("inf")


def about() -> dict[str, str]:
    """Date, device, versions and commit that figures hold for."""
    root = Path(__file__).resolve().parent.parent
    try:
        git = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True
        )
        commit = git.stdout.strip()
    except OSError:
        commit = ""
    cuda = torch.cuda.is_available()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, Triton's interpreter",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}",
        "commit": commit or "unknown",
    }
