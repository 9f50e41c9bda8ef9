"""Kernels that move KV between an engine's pages and canonical blocks: tensors in, tensors out.

This package stands below everything else: it knows nothing of `cachestore`, and needs torch alone. Each
folder is one operation with the same anatomy: the public functions in `__init__.py`, the oracle in plain
torch in `naive.py`, the Triton kernels in `fused.py`, whose launch settings by architecture are in `launch.py`. Triton
is imported only when a fused kernel runs.

- `cachestore_kernels.paged`: `gather` pages into blocks, `scatter` blocks into pages
- `cachestore_kernels.quant`: the same, quantised on the way
- `cachestore_kernels.shuffle`: the same with exponents apart, or packed without loss
- `cachestore_kernels.rope`: `scatter` with keys turned to other positions
- `cachestore_kernels.checksum`: checksums of planes where they lie
- `cachestore_kernels.attention`: `decode` and `prefill` over pages
"""
