"""The full comparison: `python -m benches.python.run`. Its rows and the peers are in `penstock.bench`."""
