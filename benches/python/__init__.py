"""The full comparison: `python -m benches.python.run`. Rows are made in `scenarios`, peers are in `peers/`."""
