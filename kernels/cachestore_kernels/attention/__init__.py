"""How do queries attend to KV that lies in pages?

- `cachestore_kernels.attention.decode`: one query a sequence, over plain or quantised pages
- `cachestore_kernels.attention.prefill`: many queries a sequence, causal, on a ragged batch

Pools are views `[pages, kv_heads, page_tokens, head_dim]` with any strides as long as the last is 1, so every engine's
layout is a view away (`cachestore_kernels.paged` lists them); query heads are consecutive by KV head. Softmax is online
and float32 (FlashAttention, arXiv 2205.14135). What lies in pages behind a sequence's length is never looked at.
"""
