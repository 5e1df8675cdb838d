"""The comparison of languages: upstream's Rust, penstock from Rust and from Python, and Python's own ways, in one run.

| module | what |
|---|---|
| `compare` | `make compare`: runs the parts one after the other, and writes JSON, a page and Markdown |
| `rows` | the rows of each part |
| `revisions` | `make bench-compare`: penstock beside an older one |
| `stores` | the directories that files go to |
| `published` | the figures that upstream's author published |
| `verdict` | where penstock loses, and what each policy costs |
| `findings` | what upstream's author found, and whether it is so here |
| `compare_report` | the page's sections |
"""
