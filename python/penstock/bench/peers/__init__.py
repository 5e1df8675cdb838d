"""Other clients, one file each: `naive` is what their first page of documentation shows, `tuned` what the rest advises.

Each option of a tuned row stands with the page that it is from. A row is an async context manager over a
`penstock.bench.reading.Fetch`; `scenario` is ram, fs, mmap, mmap_copy or drop, `store` the directory for files.
"""
