"""Archives of dialogs in one file each: the BARC 2 format, exchanged with the Rust crate `barc` and its tool."""

from penstock._native import Strategy
from penstock.barc.archive import Archive, AsyncArchive, Records, open, repair
from penstock.barc.index import Index
from penstock.barc.record import Entry, Record, Repair

__all__ = ["Archive", "AsyncArchive", "Entry", "Index", "Record", "Records", "Repair", "Strategy", "open", "repair"]
