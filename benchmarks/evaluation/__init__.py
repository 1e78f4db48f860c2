"""Which explanation can be trusted, network by network: ``python -m benchmarks.evaluation``."""
