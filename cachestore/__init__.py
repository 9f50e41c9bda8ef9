"""A distributed KV-cache store for large language models."""
