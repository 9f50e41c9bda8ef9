"""Engines that people run, over our store: their interface on one side, the client on the other.

transformers                          a cache that `generate` takes, loaded from the store and saved into it
generate_settings, transformers_rows  which of its arguments that allows; the prompts of a batch
transformers_naming                   what a loaded model is called, by files that transformers_files compares with it
                                      and by transformers_tables, which no file holds
transformers_loaded                   how it is with every call: transformers_samples of its weights, and what computes
                                      in transformers_modules
vllm_connector, vllm_tier             vLLM: KV by tokens, canonical; or bytes behind its own CPU tier, opaque
vllm_scheduling, vllm_transfer        the connector's two halves; vllm_work is what they tell each other, vllm_loading
                                      and vllm_saving what a worker is just moving
vllm_layout, vllm_naming              which pages and which models of vLLM's are known; vllm_revision which settings of
                                      it change KV; vllm_settings, vllm_stats
vllm_offloading                       vLLM's own connector for tiers, which tells ours the revision
vllm_shards, vllm_events              the heads of a tensor-parallel rank; what routers are told of saved blocks
sglang                                SGLang: pages of its host memory behind its hierarchical cache, opaque
sglang_pages, sglang_host             pages in runs of memory; which host memory is known. sglang_naming: their spec;
                                      sglang_revision: which settings of SGLang change KV
lmcache_connector, lmcache_l2         LMCache: chunks inside an engine, or behind its server, opaque
lmcache_chunks, lmcache_settings      what both have; which settings of LMCache are refused
opaque                                pages of engines that show hashes and bytes only
keys, pages, page_rows, staging       shared: keys of requests, page layouts and their copies, memory
named, client, complaints             shared: revisions, the store's address, what the log is told once

Each is loaded by its engine's own plug-in mechanism. An engine is imported in the files named after it and nowhere
else, and nothing imports this package.
"""
