"""Measurements against a naive loop, a hand-written cache and nnsight; run `bench.py`."""
