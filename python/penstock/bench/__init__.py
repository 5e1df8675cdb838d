"""Measuring penstock on one's own machine; `python -m penstock.bench` and `penstock bench` are the ways in.

| module | what |
|---|---|
| `command` | the command line |
| `demo` | the table and the picture of `make demo` |
| `rounds`, `driver`, `worker` | interleaved rounds, one process a row |
| `server` | the server that is loaded from |
| `variants` | how penstock stores and reads a body in each scenario |
| `reading` | how every row's bodies are read |
| `machine`, `progress` | the processors and what else uses them; the line on the terminal |
| `results`, `figures`, `report` | the shape of results; their statistics; tables and pictures |
"""

from penstock.bench.reading import summary

__all__ = ["summary"]
