"""Faults planted into models whose right answers are known, and what the suite makes of them."""
