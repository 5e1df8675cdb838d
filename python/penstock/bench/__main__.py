"""`python -m penstock.bench`."""

import sys

from penstock.bench.command import main

sys.exit(main())
