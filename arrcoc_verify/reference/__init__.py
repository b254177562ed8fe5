"""Embedded models whose right answers are known."""
