"""The inference engine: usable in-process, without gRPC and without an identity."""
