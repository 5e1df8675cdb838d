"""Pages that list what the sources hold are held to it: errors, dependencies, tables of contents, the reference. What
`help()` shows is there."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import _native, errors

from tests.blocking import handing

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def classes_of(source: Path) -> dict[str, str]:
    """Each exception with its first base."""
    return {
        node.name: node.bases[0].id
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and isinstance(node.bases[0], ast.Name)
    }


def tree_of(page: Path) -> dict[str, str]:
    """Each exception of the drawn tree with the one it hangs on."""
    above = [("PenstockError", -1)]
    found = {"PenstockError": "Exception"}
    for line in re.findall(r"^[│ ]*[├└]── .+$", page.read_text(), re.MULTILINE):
        depth = line.index("── ")
        name = line[depth + 3 :].split()[0]
        while above[-1][1] >= depth:
            above.pop()
        found[name] = above[-1][0]
        above.append((name, depth))
    return found


def dependencies() -> Iterator[str]:
    """The direct dependencies that the manifests name."""

    def tables(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for table in [manifest, *manifest.get("target", {}).values()]:
            for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
                yield table.get(kind, {})

    for crate in ("rust/core", "rust/native"):
        for table in tables(tomllib.loads((ROOT / crate / "Cargo.toml").read_text())):
            yield from (name for name in table if not name.startswith("penstock"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    lists += [file.read_text().splitlines() for file in sorted((ROOT / "requirements").glob("*.txt"))]
    for requirements in lists:
        for requirement in requirements:
            if match := re.match(r"[A-Za-z][\w.-]*", requirement):
                yield match[0]


def test_the_tree_of_errors_is_the_one_in_the_source() -> None:
    assert tree_of(DOCS / "reference/errors.md") == classes_of(ROOT / "python/penstock/errors.py")


def test_every_direct_dependency_has_its_reason() -> None:
    first_cells = re.findall(r"^\| ([\w, -]+) \|", (DOCS / "dependencies.md").read_text(), re.MULTILINE)
    explained = {name.strip() for cell in first_cells for name in cell.split(",")}
    assert sorted(set(dependencies()) - explained) == []


def test_the_design_has_every_module_of_the_core() -> None:
    table = (DOCS / "design.md").read_text().partition("| module | subject |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)
    told = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert told == {path.stem for path in (ROOT / "rust/core/src").iterdir()} - {"lib"}


def navigation() -> list[str]:
    """The pages of the site, in its own order."""
    return re.findall(r"^\s*- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_every_page_is_in_the_table_of_contents() -> None:
    assert set(navigation()) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_the_first_page_leads_to_every_other() -> None:
    linked = re.findall(r"\]\(([^)#\s]+\.md)", (DOCS / "index.md").read_text())
    assert [page for page in navigation() if page not in linked] == ["index.md"]


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def blocks() -> Iterator[tuple[str, str]]:
    """Place and text of each example in the pages."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", match[1]


@pytest.mark.parametrize(("place", "block"), list(blocks()), ids=lambda part: part if part.startswith("docs/") else "")
def test_examples_in_the_pages_run_as_modules(place: str, block: str) -> None:
    exec(compile(block, place, "exec"), {"__name__": "example"})


@pytest.mark.parametrize(("place", "block"), list(blocks()), ids=lambda part: part if part.startswith("docs/") else "")
def test_names_in_the_examples_are_penstocks(place: str, block: str) -> None:
    named = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "penstock"
    }
    assert named <= set(dir(penstock))


def test_each_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    uneven = []
    for page in [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            head, *rows = table.splitlines()
            uneven += [f"{page.name}: {row}" for row in rows if row.count("|") != head.count("|")]
    assert uneven == []


@pytest.mark.parametrize("cls", [penstock.Timeouts, penstock.Limits])
def test_the_defaults_in_the_settings_are_those_in_the_source(cls: Any) -> None:
    section = (DOCS / "reference/settings.md").read_text().partition(f"\n## `{cls.__name__}`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`|([\d,]+))", section, re.MULTILINE)
    told = {name: ast.literal_eval(value or number.replace(",", "")) for name, value, number in rows}
    assert told == {field.name: field.default for field in dataclasses.fields(cls) if field.init}


def test_the_units_in_the_settings_are_those_that_are_taken() -> None:
    said = re.search(r"The units are (.*?), spelt", (DOCS / "reference/settings.md").read_text(), re.DOTALL)
    assert said is not None
    sizes = {unit: penstock.Tunables(max_body=f"1{unit}").max_body for unit in re.findall(r"`(\w+)`", said[1])}
    binary = {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
    decimal = {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
    assert sizes == {"B": 1, **binary, **decimal}


def test_pages_look_the_same_on_the_site_and_on_github() -> None:
    """`\\|` within code in a table keeps its backslash on the site, and GitHub knows no `!!!`."""
    marks = [
        f"{page.relative_to(ROOT)}: {mark}"
        for page in DOCS.rglob("*.md")
        for mark in re.findall(r"\\\||^!!!.*", page.read_text(), re.MULTILINE)
    ]
    assert marks == []


# The reference

MACHINERY = {"Direct.perform", "Dispatch.perform", "BlockingPermit.throw", "BlockingPermit.close"}
"""What isn't for users, though it has a public name."""

LIKE_ANOTHER = {"BodyImage.encode"}
"""Whose docstring explains only what it has besides those of another."""

MADE = {"BlockingPermit", "BodyImage", "Headers", "Response", "StreamedResponse"}
"""Classes that penstock makes, not its users."""


def in_code(text: str) -> set[str]:
    """The words in code of a page, whole examples left out."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}


def told_of(name: str) -> set[str]:
    """The words in code of the reference's parts that have this name: sections, and pages by their title."""
    found: set[str] = set()
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text()
        title, *_ = text.splitlines()
        for part in [text] if name in in_code(title) else re.split(r"^(?=## )", text, flags=re.MULTILINE):
            words = in_code(part)
            found |= words if name in words else set()
    return found


def parameters(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters) - {"self", "cls"}
    except (TypeError, ValueError):
        return set()


def members(cls: type[Any]) -> set[str]:
    """What a class has for its users; the bases of images and sinks are for the classes that are made of them."""
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "penstock"]
    names = {name for base in bases if base not in (_native.Image, _native.Sink) for name in vars(base)}
    names.update(field.name for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()))
    return {name for name in names if not name.startswith("_") and f"{cls.__name__}.{name}" not in MACHINERY}


@pytest.mark.parametrize("name", sorted(set(penstock.__all__) - set(errors.__all__)))
def test_the_reference_has_every_public_name_with_its_members_and_parameters(name: str) -> None:
    told, value = told_of(name), getattr(penstock, name)
    assert name in told
    wanted = parameters(value) if name not in MADE else set()
    if isinstance(value, type):
        wanted |= members(value)
        wanted |= {parameter for member in members(value) for parameter in parameters(getattr(value, member, None))}
    assert {each for each in wanted if not each.startswith("_")} - told == set()


def test_the_reference_has_the_names_of_every_module_that_it_names() -> None:
    modules = (penstock.barc, penstock.har, penstock.http, penstock.replay)
    assert [name for module in modules for name in module.__all__ if name not in told_of(name)] == []


def explained(value: Any) -> set[str]:
    """The parameters under `Args:` in a docstring."""
    args = re.search(r"^Args:\n((?: .*\n?|\n)+)", inspect.getdoc(value) or "", re.MULTILINE)
    return set(re.findall(r"^ {4}(\w+):", args[1], re.MULTILINE)) if args else set()


def public() -> dict[str, Any]:
    """What is public, by its name, with the members of classes."""
    found = {name: getattr(penstock, name) for name in penstock.__all__}
    for module in (penstock.barc, penstock.har, penstock.replay):
        found |= {name: getattr(module, name) for name in module.__all__}
    for name, value in list(found.items()):
        if isinstance(value, type):
            found |= {f"{name}.{member}": getattr(value, member, None) for member in members(value)}
    return found


def explaining() -> dict[str, Any]:
    """What is public and explains its parameters, by its name."""
    return {name: value for name, value in public().items() if explained(value)}


@pytest.mark.parametrize("name", sorted(explaining()))
def test_docstrings_explain_the_parameters_that_the_reference_has(name: str) -> None:
    value = explaining()[name]
    names = explained(value)
    assert names - parameters(value) == set()
    assert names - told_of(name.partition(".")[0]) == set()
    if name not in LIKE_ANOTHER:
        # What is passed on goes without, and so does another name of the same.
        assert parameters(value) - names <= {"args", "kwargs", "max_workers"}


def test_every_public_class_and_function_has_a_docstring() -> None:
    called = {name: value for name, value in public().items() if isinstance(value, type) or inspect.isroutine(value)}
    assert [name for name, value in called.items() if "." not in name and not value.__doc__] == []


def test_the_stubs_explain_every_method_that_the_extension_has_for_users() -> None:
    """It is what editors show."""
    stubs = ast.parse((ROOT / "python/penstock/_native.pyi").read_text()).body
    bodies = {f"{node.name}.": node.body for node in stubs if isinstance(node, ast.ClassDef)}
    silent = {
        f"{owner}{node.name}"
        for owner, body in {"": stubs, **bodies}.items()
        for node in body
        if isinstance(node, ast.FunctionDef) and not ast.get_docstring(node)
    }
    assert {name for name in silent & public().keys() if callable(public()[name])} == set()


def by_name_only(function: Any) -> set[str]:
    """The parameters that can't be given by position, as the reference writes them with their defaults."""
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {f"{each.name}={each.default!r}" for each in known if each.kind is inspect.Parameter.KEYWORD_ONLY}


def test_the_reference_has_a_star_before_what_can_be_given_by_name_only() -> None:
    only: dict[str, set[str]] = {}
    for name, function in public().items():
        only.setdefault(name.rpartition(".")[2], set()).update(by_name_only(function))
    wrong = [
        f"{page.name}: {name}({given})"
        for page in (DOCS / "reference").glob("*.md")
        for name, given in re.findall(r"`(?:await )?(?:\w+\.)*(\w+)\(([^`()]*)\)", page.read_text())
        if only.get(name, set()) & set(given.partition("*")[0].split(", "))
    ]
    assert wrong == []


def options_of(name: str) -> set[str]:
    """The options in the tables of a name's own sections."""
    found: set[str] = set()
    for page in (DOCS / "reference").glob("*.md"):
        for section in re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE):
            if section.startswith(f"## `{name}`"):
                for rows in re.findall(r"^\| option \|.*\n\|[-|]+\n((?:\|.*\n)+)", section, re.MULTILINE):
                    cells = re.findall(r"^\|([^|]+)\|", rows, re.MULTILINE)
                    found |= set(re.findall(r"`(\w+)`", "".join(cells)))
    return found


TABLES = ["Budget", "Client", "DispatchPool", "FilePool", "Hooks", "Limits", "LoopMonitor", "Timeouts", "Tunables"]


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_options_are_complete_and_have_nothing_else(name: str) -> None:
    assert options_of(name) == parameters(getattr(penstock, name)) - {"max_workers"}


def figures_of(name: str) -> set[str]:
    """The first cells of the tables in a section of the page about `stats()`."""
    section = (DOCS / "reference/stats.md").read_text().partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
    return {
        name for cell in re.findall(r"^\|([^|]+)\|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }


@pytest.mark.parametrize("name", ["client", "slabs", "threads"])
def test_the_figures_that_the_reference_has_are_those_of_stats(name: str) -> None:
    figures = penstock.Client().stats() if name == "client" else penstock.stats()[name]
    assert figures_of(name) == set(figures)
    assert {type(figure) for figure in figures.values()} == {int}


async def _handover_stats() -> dict[str, Any]:
    return handing.stats()


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "penstock": penstock.stats,
    "loop": lambda: penstock.run(_handover_stats()),
    "budget": lambda: penstock.Budget().stats(),
    "pool": lambda: penstock.default_pool().stats(),
    "semaphore": lambda: penstock.Semaphore(1).stats(),
    "policy": lambda: penstock.Direct().stats(),
    "monitor": lambda: penstock.LoopMonitor().stats(),
    "file_pool": lambda: penstock.FilePool().stats(),
}
"""What has figures, by how the first table of the page about them calls it."""


@pytest.mark.parametrize("name", CALLS)
def test_the_figures_that_the_reference_has_of_a_call_are_all_that_it_gives(name: str) -> None:
    page = (DOCS / "reference/stats.md").read_text()
    row = re.search(rf"^\| `{name}\.(?:handover_)?stats\(\)` \|(.*)\|$", page, re.MULTILINE)
    assert row is not None
    figures = CALLS[name]()
    told = set(re.findall(r"`(\w+)`", row[1]))
    if name == "budget":
        # Each has the same.
        figures |= figures["ram"]
    assert told - {"LoopMonitor"} == set(figures)


@pytest.mark.parametrize("policy", [penstock.Direct(), penstock.Permit(penstock.Semaphore(1)), penstock.Dispatch()])
def test_every_policy_has_the_same_figures(policy: penstock.Policy) -> None:
    histogram = {"count", "sum", "max", "p50", "p99", "buckets"}
    figures = policy.stats()
    assert figures.keys() == penstock.Direct().stats().keys()
    assert [figures[name].keys() for name in ("wait", "run", "lag")] == [histogram] * 3
