"""Bodies of any size through bounded memory: collected by a sink, kept as an image, read from anywhere."""

from penstock._native import Budget, FilePool, Tunables
from penstock.body.collect import collect
from penstock.body.image import BodyImage
from penstock.body.sink import AsyncBodySink, BodySink

__all__ = ["AsyncBodySink", "BodyImage", "BodySink", "Budget", "FilePool", "Tunables", "collect"]
