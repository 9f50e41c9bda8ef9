"""The reference engine on transformers: KV in blocks, out of and into a store.

`hf` loads a model and is the one file that imports transformers. `spec` says what the model's KV is called, `sequence`
holds the KV of one prompt and takes blocks in and out, `sampling` picks tokens, `generation` joins sequence and store.

Many sequences share pages: `page_pool` says who holds which, `page_memory` is their bytes, `paged_model` computes on
them, a `runner` step by step. `batch_loop` serves requests on a runner and a store, one turn (`batch_turn`) at a time.
"""
