"""Whether the device that `[engine]` names is on this machine."""

import torch

from cachestore.errors import ConfigError


def check_device(name: str) -> None:
    """ConfigError if torch sees no such device here."""
    device = torch.device(name)
    if device.type != "cuda":
        return
    count = torch.cuda.device_count()
    if not count:
        raise ConfigError(
            f"engine.device = {name!r}: torch sees no CUDA device; use 'cpu', or a CUDA build of torch "
            "on a machine with one (a worker that Ray starts sees those of cluster.num_gpus)"
        )
    if (device.index or 0) >= count:
        raise ConfigError(f"engine.device = {name!r}: torch sees {count} CUDA devices; use an index below that")
