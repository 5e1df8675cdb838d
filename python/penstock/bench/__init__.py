"""Measuring penstock on one's own machine; `python -m penstock.bench` and `penstock bench` are the ways in.

| module | what |
|---|---|
| `command` | the command line |
| `measure` | `penstock bench client` and `penstock bench blocking`: tables, JSON and a page |
| `demo` | the table and the picture of `make demo` |
| `scenarios`, `blocking` | which rows there are |
| `rounds`, `driver`, `worker`, `blocking_worker` | interleaved rounds, one process a row |
| `server` | the server that is loaded from |
| `variants` | how penstock stores and reads a body in each scenario |
| `peers`, `strategies`, `echo` | other clients, ways to run blocking work, and echoes beside it |
| `reading` | how every row's bodies are read |
| `machine`, `progress` | the processors and what else uses them; the line on the terminal |
| `results`, `figures`, `report`, `page` | the shape of results; their statistics; tables and pictures; a page of them |
"""

from penstock.bench.reading import summary

__all__ = ["summary"]
