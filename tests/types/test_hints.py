"""Annotations as programs look them up while they run: dependency injection, pydantic and Sphinx do."""

from __future__ import annotations

import functools
import importlib
import inspect
import io
import typing
from collections.abc import Callable, Iterator
from typing import Any

import penstock
import pytest

MODULES = (
    "penstock",
    "penstock.barc",
    "penstock.har",
    "penstock.http",
    "penstock.pytest_plugin",
    "penstock.replay",
    "penstock.warc",
)


def functions_of(cls: type) -> Iterator[Callable[..., Any]]:
    for base in cls.__mro__:
        if base.__module__.startswith("penstock"):
            for value in vars(base).values():
                if isinstance(value, property | functools.cached_property):
                    value = value.fget if isinstance(value, property) else value.func
                value = inspect.unwrap(getattr(value, "__func__", value))
                if inspect.isfunction(value) and (value.__name__ == "__init__" or not value.__name__.startswith("_")):
                    yield value


PUBLIC = {
    f"{name}.{each}": getattr(module, each)
    for name in MODULES
    for module in [importlib.import_module(name)]
    for each in module.__all__
    if inspect.isclass(getattr(module, each)) or inspect.isroutine(getattr(module, each))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_annotations_of_all_that_is_public_can_be_looked_up(name: str) -> None:
    public = PUBLIC[name]
    typing.get_type_hints(public)
    for function in functions_of(public) if inspect.isclass(public) else [public]:
        typing.get_type_hints(function)
        if inspect.isfunction(function):
            inspect.signature(function, eval_str=True)


def test_there_are_many_public_names_with_annotations() -> None:
    assert len(PUBLIC) > 100
    assert {penstock.Client.record, penstock.Client.__init__} <= set(functions_of(penstock.Client))


def test_annotations_name_what_is_given() -> None:
    assert typing.get_type_hints(penstock.Client.record)["return"] is penstock.Dialog
    assert typing.get_type_hints(penstock.Dialog.response)["return"] is penstock.Response
    partial = typing.get_type_hints(penstock.Truncated)["partial"]
    assert partial == penstock.BodyImage | None
    either = penstock.Response | penstock.StreamedResponse
    assert typing.get_type_hints(penstock.HTTPStatusError)["response"] == either
    assert typing.get_type_hints(penstock.TooManyRedirects)["history"] == tuple[either, ...]


def test_a_file_of_a_body_is_the_buffered_one_that_its_type_says() -> None:
    image = penstock.BodyImage.from_bytes(b"body")
    assert isinstance(image.open(), io.BufferedReader)
