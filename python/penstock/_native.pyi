"""The Rust extension, by hand; `make lint` proves with stubtest that it matches the binary."""

from typing import Final

BUILD_PROFILE: Final[str]
__version__: Final[str]
