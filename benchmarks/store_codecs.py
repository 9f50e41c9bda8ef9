"""The rows of `store.py` about the `entropy` codec: those of `kv_codecs.py`, on the KV of a real model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import kv_codecs
import numpy as np
import torch
from report import Report

from cachestore.codecs import create

if TYPE_CHECKING:
    from store import Options

NEEDLE_MODEL = Path(__file__).resolve().parent.parent / "examples" / "needle" / "model"


def measure_entropy(report: Report, options: Options) -> None:
    """Rows `entropy.*`: planes of 128 KiB or the next size that fits; the same of 64 KiB beside them."""
    torch.set_num_threads(1)
    rounds, tokens, nbytes = (2, 1024, 32 << 20) if options.quick else (5, 4096, 512 << 20)
    races = {
        name: kv_codecs.Race(
            create("entropy"), kv_codecs.model_planes(str(options.model), tokens, size).repeated(total)
        )
        for name, size, total in (
            ("entropy", kv_codecs.PLANE_BYTES, nbytes),
            ("entropy.64KiB", kv_codecs.SMALL_BYTES, nbytes // 4),
        )
    }
    out = np.zeros(races["entropy"].planes.nbytes, dtype=np.uint8)
    for turn in range(rounds + 1):
        for race in races.values():
            race.round(out)
            if not turn:  # memory that is touched for the first time costs more than what is measured
                race.encode_seconds.clear()
                race.decode_seconds.clear()
    for name, race in races.items():
        kv_codecs.add(report, f"{name}.ratio", kv_codecs.share_of_bound(race), "of bound")
        kv_codecs.add(report, f"{name}.encode", race.rate(race.encode_seconds), "GB/s of core time")
        kv_codecs.add(report, f"{name}.decode", race.rate(race.decode_seconds), "GB/s of core time")
