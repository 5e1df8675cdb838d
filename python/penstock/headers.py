"""`Headers`: the fields of a message, for the client and for what is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock._native import Fields, Head

__all__ = ["Headers"]


class Headers(Mapping[str, str]):
    """Header fields: names in any case, values as latin-1 text (RFC 9110 section 5.5). A field that came more than once
    gives its first value by `[]`, and all of them by `get_all`."""

    __slots__ = ("_head",)

    def __init__(self, head: Head | Fields) -> None:
        self._head = head

    def __getitem__(self, name: str) -> str:
        value = self._head.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in order; empty if there is none."""
        return self._head.get_all(name)

    @property
    def raw(self) -> tuple[tuple[bytes, bytes], ...]:
        """Names and values as received, in order."""
        return self._head.fields()

    def _names(self) -> dict[str, None]:
        return dict.fromkeys(name.decode("latin-1").lower() for name, _ in self.raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"Headers({[(name.decode('latin-1'), value.decode('latin-1')) for name, value in self.raw]})"
