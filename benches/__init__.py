"""Measurements: Python rows with their peers in `python/`, the native floor in `rust/floor`, targets in `targets`.

Run from the repository's root; nothing of this is in the wheel. What users need too is in `penstock.bench`.
"""
