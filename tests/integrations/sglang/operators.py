"""What SGLang imports on its way and cannot have without a GPU: torchvision's operators.

The registry's torchvision is built for CUDA, and does not import where its library does not load. SGLang's
configurations of models with images need no more of it than that it can be imported.
"""

import torch

# for as long as the process lives: the operators go with it
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare() -> None:
    """Declares the operators that torchvision looks for when it is imported, unless they are there."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
