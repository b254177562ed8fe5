"""Debugging of one failed allocation: its cause by experiment, and a repair that is tried."""
