"""Generated gRPC stubs; see `proto/generate.py`. Only `service` and the workers' services import them."""
