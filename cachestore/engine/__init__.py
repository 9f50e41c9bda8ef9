"""The reference engine on transformers: KV in blocks, out of and into a store.

`model` says what a model is, `spec` what its KV is called, `weights` loads it. Many sequences share pages: `page_pool`
says who holds which, `page_memory` is their bytes, `paged_model` computes on them, a `runner` step by step.
`batch_loop` serves requests on a runner and a store, one turn (`batch_turn`) at a time; `drawing` draws their tokens.
"""
