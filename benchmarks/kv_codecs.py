"""How small do codecs make real KV, how fast, and how near to what it was?

The KV is that of the model in `--model` (default: the needle model) on the needle's documents, in bfloat16, cut into
planes of 128 KiB (eight heads of 128 channels, 64 tokens) or the next size that fits, beside that of 64 KiB, and laid
out many times over: 512 MiB of it for `entropy`, an eighth of that for the others. One thread; every round runs every
codec both ways, one after the other, and the figures are medians over the rounds of raw bytes by the time that the
thread had a core, so that whatever else runs on the machine counts as little as it can.

    python benchmarks/kv_codecs.py [--quick] [--json] [--model DIR]
"""

import statistics
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from report import Report

from cachestore.block import BlockSpec, Buffer, Half, PlaneId
from cachestore.codecs import create
from cachestore.codecs.base import Codec
from cachestore.codecs.grouped import widened
from cachestore.codecs.lossy import codec_for, settled
from cachestore.engine.model import model_spec, tokenizer
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.runner import Runner
from cachestore.engine.settings import EngineSettings

NEEDLE = Path(__file__).resolve().parent.parent / "examples" / "needle"
PLANE_BYTES, SMALL_BYTES = 128 << 10, 64 << 10
GIGABYTE = 1e9
RECIPES = {
    "int8": "quantisation=int8,group=64",
    "int4": "quantisation=int4,group=64",
    "int4.group32": "quantisation=int4,group=32",
    "fp8.e4m3": "quantisation=fp8,format=e4m3,group=64",
    "fp8.e5m2": "quantisation=fp8,format=e5m2,group=64",
}
TARGETS = {"entropy.ratio": (0.96, 0.99), "entropy.encode": (0.3, 1.0), "entropy.decode": (0.6, 1.5)}


class Planes(NamedTuple):
    """Planes of bfloat16 values, and the spec that they belong to."""

    spec: BlockSpec
    planes: list[tuple[PlaneId, Buffer]]

    @property
    def nbytes(self) -> int:
        """Raw bytes of all planes."""
        return sum(raw.nbytes for _, raw in self.planes)

    def repeated(self, nbytes: int) -> "Planes":
        """The same planes again and again, each time elsewhere in memory, until there are `nbytes`."""
        count = max(1, nbytes // self.nbytes) * len(self.planes)
        return Planes(self.spec, [(plane, raw.copy()) for plane, raw in islice(cycle(self.planes), count)])


def model_planes(model: str, tokens: int, plane_bytes: int) -> Planes:
    """The KV of the first `tokens` tokens of the needle's documents under `model`, `plane_bytes` a plane or more."""
    settings = EngineSettings(model=model, dtype="bfloat16", head_groups=1, threads=1)
    slots = model_spec(settings).slots
    narrowest = min(2 * slot.kv_heads * min(slot.key_dim, slot.value_dim or slot.key_dim) for slot in slots)
    size = -(-plane_bytes // narrowest)
    engine = PagedModel(replace(settings, block_tokens=size))
    engine.open()
    text = "\n".join(path.read_text() for path in sorted((NEEDLE / "documents").glob("*.txt")))
    ids = tokenizer(settings).encode(text)[: min(max(tokens, size), engine.max_tokens)]
    runner = Runner(engine, -(-len(ids) // size))
    sequence = runner.start(ids)
    runner.step([(sequence, len(ids))])
    planes = engine.spec.planes()
    return Planes(
        engine.spec,
        [
            (plane, runner.memory.planes(page, number, number + 1))
            for page in sequence.pages[: len(ids) // size]
            for number, plane in enumerate(planes)
        ],
    )


def normal_planes(spec: BlockSpec) -> Planes:
    """Normally distributed values under the same spec."""
    random = np.random.default_rng(0)
    values = ((plane, random.standard_normal(plane.raw_bytes // 2, dtype=np.float32)) for plane in spec.planes())
    bf16 = ((plane, torch.from_numpy(raw).bfloat16().view(torch.uint8).numpy()) for plane, raw in values)
    return Planes(spec, list(bf16))


def entropy_bytes(raw: Buffer) -> float:
    """The least that a plane can take if its exponents are coded by how often each occurs, and the rest not at all."""
    exponents = (raw.view("<u2") >> np.uint16(7)).astype(np.uint8)
    counts = np.bincount(exponents)
    counts = counts[counts > 0]
    bits = float((counts * np.log2(exponents.size / counts)).sum())
    return exponents.size + bits / 8


class Race:
    """One codec over many planes, timed both ways."""

    def __init__(self, codec: Codec, planes: Planes) -> None:
        self.codec, self.planes = codec, planes
        self.encode_seconds: list[float] = []
        self.decode_seconds: list[float] = []

    @cached_property
    def stored(self) -> list[Buffer | None]:
        """What the codec stores for each plane; None where it stores it raw."""
        return [self.codec.encode(raw, plane) for plane, raw in self.planes.planes]

    @property
    def ratio(self) -> float:
        """Raw bytes by stored bytes."""
        pairs = zip(self.planes.planes, self.stored, strict=True)
        return self.planes.nbytes / sum((raw if stored is None else stored).nbytes for (_, raw), stored in pairs)

    def round(self, out: Buffer) -> None:
        """Every plane once each way; `out` has room for all of them."""
        begun = time.thread_time()
        for plane, raw in self.planes.planes:
            self.codec.encode(raw, plane)
        self.encode_seconds.append(time.thread_time() - begun)
        work = list(zip(self.planes.planes, self.stored, self._places(out), strict=True))
        begun = time.thread_time()
        for (plane, raw), stored, place in work:
            if stored is None:
                np.copyto(place, raw)
            else:
                self.codec.decode(stored, place, plane.item_bytes)
        self.decode_seconds.append(time.thread_time() - begun)

    def rate(self, seconds: list[float]) -> float:
        """Raw gigabytes a second."""
        return self.planes.nbytes / statistics.median(seconds) / GIGABYTE

    def _places(self, out: Buffer) -> Iterator[Buffer]:
        start = 0
        for _, raw in self.planes.planes:
            yield out[start : start + raw.nbytes]
            start += raw.nbytes


def add(report: Report, id: str, value: float, unit: str) -> None:
    """A row, with what is wanted of it."""
    bar, reach = TARGETS.get(id, (None, None))
    report.add(id, value, unit, bar=bar, reach=reach)


def measure_nearness(report: Report, name: str, planes: Planes) -> None:
    """Rows for the signal-to-noise ratio of what every lossy codec gives back."""
    for recipe_name, recipe in RECIPES.items():
        codec = codec_for(replace(planes.spec, recipe=recipe))
        assert codec is not None
        for half, word in ((Half.K, "keys"), (Half.V, "values")):
            signal = noise = 0.0
            for plane, raw in planes.planes:
                if plane.half is half:
                    before = widened(raw, "bfloat16").astype(np.float64)
                    signal += float((before**2).sum())
                    noise += float(((widened(settled(codec, raw, plane), "bfloat16") - before) ** 2).sum())
            if signal and noise:
                report.add(f"{recipe_name}.{name}.{word}", 10 * float(np.log10(signal / noise)), "dB")


def share_of_bound(race: Race) -> float:
    """How near the codec comes to what coding the exponents by themselves could reach."""
    bound = race.planes.nbytes / sum(entropy_bytes(raw) for _, raw in race.planes.planes)
    return race.ratio / bound


def run(model: str, rounds: int, tokens: int, nbytes: int) -> Report:
    """Measures everything."""
    report = Report("codecs")
    torch.set_num_threads(1)
    once, small = (model_planes(model, tokens, plane_bytes) for plane_bytes in (PLANE_BYTES, SMALL_BYTES))
    lossy = {name: codec_for(replace(once.spec, recipe=recipe)) for name, recipe in RECIPES.items()}
    races = {"entropy": Race(create("entropy"), once.repeated(nbytes))}
    races["entropy.64KiB"] = Race(create("entropy"), small.repeated(nbytes // 8))
    races["lz4"] = Race(create("lz4"), once.repeated(nbytes // 8))
    races |= {name: Race(codec, races["lz4"].planes) for name, codec in lossy.items() if codec}
    out = np.zeros(races["entropy"].planes.nbytes, dtype=np.uint8)
    for _ in range(rounds):
        for race in races.values():
            race.round(out)
    for name, race in races.items():
        if name.startswith("entropy"):
            add(report, f"{name}.ratio", share_of_bound(race), "of bound")
        add(report, f"{name}.encode", race.rate(race.encode_seconds), "GB/s")
        add(report, f"{name}.decode", race.rate(race.decode_seconds), "GB/s")
        add(report, f"{name}.shrinks", race.ratio, "ratio")
    measure_nearness(report, "model", once)
    measure_nearness(report, "normal", normal_planes(once.spec))
    return report


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer planes")
    parser.add_argument("--model", default=str(NEEDLE / "model"), help="a model directory")
    options = parser.parse_args()
    report = run(options.model, 3, 1024, 64 << 20) if options.quick else run(options.model, 7, 4096, 512 << 20)
    report.print(options.json)


if __name__ == "__main__":
    main()
