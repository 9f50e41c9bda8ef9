"""Kernels that move KV between an engine's pages and canonical blocks: tensors in, tensors out.

This package stands below everything else: it knows nothing of `cachestore`, and needs torch alone. Each
folder is one operation with the same anatomy: the public functions in `__init__.py`, the oracle in plain
torch in `naive.py`, the Triton kernels in `fused.py`. Triton is imported only when a fused kernel runs.

- `cachestore_kernels.paged`: `gather` pages into blocks, `scatter` blocks into pages.
"""
