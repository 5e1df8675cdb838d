"""One page of sections, each with a table and a picture: as HTML that needs nothing beside it, and as Markdown.

Tables come as Markdown, from `penstock.bench.report`; what stands in a page is for its callers to say.
"""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = re.compile(r"^!\[.*\]\((.+\.svg)\)$", re.MULTILINE)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left; font-variant-numeric: tabular-nums }
th { position: sticky; top: 0; background: #fff }
svg { max-width: 100%; height: auto }
section { margin-top: 3rem }
"""


@dataclass(frozen=True)
class Section:
    """What stands under one heading; whatever is empty is left out."""

    title: str
    text: str = ""
    table: str = ""
    figure: "Figure | None" = None


def write(title: str, sections: Sequence[Section], path: Path) -> list[Path]:
    """`path` with .html and .md, and the pictures of the latter beside it; gives the first two."""
    page, document = path.with_suffix(".html"), path.with_suffix(".md")
    page.write_text(render(title, sections))
    # Pictures of the report that stood here before, and of no other.
    for stale in PICTURE.findall(document.read_text()) if document.exists() else ():
        path.with_name(stale).unlink(missing_ok=True)
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        if section.figure:
            beside = path.with_name(f"{path.stem}-{_anchor(section.title)}.svg")
            beside.write_text(_svg(section.figure))
            parts.append(f"![{section.title}]({beside.name})")
        parts.append(section.table)
    document.write_text("\n\n".join(part for part in parts if part) + "\n")
    return [page, document]


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML, with its pictures in it."""
    contents = [f'<li><a href="#{_anchor(each.title)}">{html.escape(each.title)}</a></li>' for each in sections]
    parts = [f"<h1>{html.escape(title)}</h1><ul>{''.join(contents)}</ul>"]
    for section in sections:
        picture = _svg(section.figure) if section.figure else ""
        parts.append(f'<section id="{_anchor(section.title)}"><h2>{html.escape(section.title)}</h2>')
        parts += [f"<p>{_inline(paragraph)}</p>" for paragraph in section.text.split("\n\n") if paragraph]
        parts += [picture, _table(section.table), "</section>"]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{"".join(parts)}</body></html>\n'


def _svg(figure: "Figure") -> str:
    # Texts as texts: smaller than as paths, and can be searched for.
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "penstock"}):
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    # Without the XML declaration, which may stand at a file's beginning only.
    return written.getvalue()[written.getvalue().index("<svg") :]


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _table(markdown: str) -> str:
    if not markdown:
        return ""
    head, _, *lines = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in markdown.splitlines())
    rows = [f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in cells)}</tr>" for cells in lines]
    titles = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _inline(text: str) -> str:
    """Markdown's bold and code."""
    text = html.escape(text.replace("\\|", "|"), quote=False)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
