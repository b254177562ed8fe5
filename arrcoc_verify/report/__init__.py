"""The run's record and the views made from it: page, JUnit, SARIF, Markdown, difference.

The record (`record.py`) is the product; every view is a pure function of it. Nothing here imports
torch, so a report renders again on any machine that has the record.
"""
