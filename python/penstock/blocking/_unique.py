"""What holds connections, files or threads, so that two of it would be one too many."""

from typing import NoReturn

__all__ = ["Unique"]


class Unique:
    """Neither copied nor pickled: a copy would close, or be warned of, what isn't its own."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be copied or pickled: share it, or make another")
