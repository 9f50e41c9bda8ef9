"""Engines that people run, over our store: their interface on one side, the client on the other.

transformers                          a cache that `generate` takes, loaded from the store and saved into it
vllm_connector, vllm_tier             vLLM: KV by tokens, canonical; or bytes behind its own CPU tier, opaque
vllm_scheduling, vllm_transfer        the connector's two halves; vllm_work is what they tell each other
vllm_layout, vllm_naming              which pages and which models of vLLM's are known; vllm_settings, vllm_stats
opaque                                pages of engines that show hashes and bytes only
keys, pages, staging, named, client   shared: keys of requests, page layouts, memory, revisions, the store's address

Each is loaded by its engine's own plug-in mechanism. An engine is imported in the files named after it and nowhere
else, and nothing imports this package.
"""
