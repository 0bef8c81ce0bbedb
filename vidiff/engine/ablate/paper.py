"""A page of blocks, and its two ways onto paper: Markdown with files beside it, HTML with everything inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """
body{font:16px/1.55 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#1c2330}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .9rem;border-bottom:1px solid #dde1e8;text-align:right;white-space:nowrap}
td.words,th.words{text-align:left}th{border-bottom:2px solid #9aa3b2}
img{max-width:100%}img.pixels{image-rendering:pixelated}.scroll{overflow-x:auto}
pre{background:#f5f6f8;padding:1rem;overflow:auto;font-size:13px}p.small{color:#5a6473;font-size:14px}
"""


@dataclass
class Heading:
    """A title; level 1 is the page's."""

    text: str
    level: int = 2


@dataclass
class Words:
    """A paragraph; `code` and **bold** as in Markdown."""

    text: str
    small: bool = False


@dataclass
class Points:
    """A list."""

    items: Sequence[str]


@dataclass
class Table:
    """A table; its first columns are words, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass
class Picture:
    """A picture file inside the page's folder."""

    file: Path
    caption: str


@dataclass
class Literal:
    """Lines as they are."""

    text: str


Block = Heading | Words | Points | Table | Picture | Literal


def markdown(blocks: Sequence[Block], folder: Path) -> str:
    """The page as Markdown, its pictures beside it."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Words(text):
            return text
        case Points(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(head, rows, words):
            rule = [":--" if i < words else "--:" for i in range(len(head))]
            cells = [[_escaped(c) for c in row] for row in (head, *rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))
        case Picture(file, caption):
            return f"![{caption}]({file.relative_to(folder).as_posix()})\n\n*{caption}*"
        case Literal(text):
            return f"```\n{text.rstrip()}\n```"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def page(blocks: Sequence[Block], title: str) -> str:
    """The page as HTML, its pictures inside: it needs no network and no other file."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(map(_html, blocks))
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Words(text, small):
            return f"<p{' class=small' if small else ''}>{_inline(text)}</p>"
        case Points(items):
            return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
        case Table(head, rows, words):
            lines = "".join(_row(row, "th" if row is head else "td", words) for row in (head, *rows))
            return f'<div class="scroll"><table>{lines}</table></div>'
        case Picture(file, caption):
            data = base64.b64encode(file.read_bytes()).decode()
            kind, pixels = file.suffix.lstrip("."), " class=pixels" if file.stem == "samples" else ""
            image = f'<img{pixels} alt="{html.escape(caption)}" src="data:image/{kind};base64,{data}">'
            return f"{image}<p class=small>{html.escape(caption)}</p>"
        case Literal(text):
            return f"<pre>{html.escape(text.rstrip())}</pre>"


def _row(cells: Sequence[str], tag: str, words: int) -> str:
    kinds = [" class=words" if i < words else "" for i in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{k}>{_inline(c)}</{tag}>' for c, k in zip(cells, kinds, strict=True))}</tr>"


def _inline(text: str) -> str:
    """Markdown's **bold** and `code` as HTML."""
    for mark, tag in (("**", "b"), ("`", "code")):
        parts = (text if mark == "`" else html.escape(text)).split(mark)
        text = "".join(f"<{tag}>{part}</{tag}>" if i % 2 else part for i, part in enumerate(parts))
    return text
