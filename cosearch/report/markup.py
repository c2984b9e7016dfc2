"""HTML from values: everything that is not markup already is escaped."""

import html
import json
from collections.abc import Iterable
from typing import Any


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


MANY = 8
"""Columns beyond which a table is set smaller on paper."""
VOID = frozenset({"br", "hr", "meta", "link", "wbr"})


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element. children: `Markup`, text, numbers, or iterables of these; None is nothing.

    attributes: underscores become hyphens and the last one of class_ and for_ is dropped; None leaves one out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Children one after the other."""
    return Markup("".join(_text(child) for child in children))


def _text(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, Iterable) and not isinstance(child, str):
        return join(*child)
    return _escaped(str(child))


def _escaped(text: str) -> str:
    """As HTML. Halves of characters, of which the name of a folder may have some, become question marks."""
    return html.escape(text).encode("utf-8", "replace").decode()


def data_script(name: str, data: Any) -> Markup:
    """JSON for a page's own script to read; no text in it can end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]], numeric: Iterable[int] = (), caption: str = "") -> Markup:
    """A table whose rows become cards on a narrow screen. numeric: columns that are set flush right."""
    names, right = list(head), set(numeric)

    def cell(i: int, content: Any) -> Markup:
        kind = "num" if i in right else None
        if i == 0:
            return tag("th", content, scope="row", data_label=names[i])
        return tag("td", content, class_=kind, data_label=names[i])

    top = tag("tr", (tag("th", n, scope="col", class_="num" if i in right else None) for i, n in enumerate(names)))
    body = (tag("tr", (cell(i, content) for i, content in enumerate(row))) for row in rows)
    said = tag("caption", caption) if caption else None
    kind = "cards many" if len(names) > MANY else "cards"
    return tag("div", tag("table", said, tag("thead", top), tag("tbody", body), class_=kind), class_="wide")


def facts_list(pairs: Iterable[tuple[Any, Any]]) -> Markup:
    """Terms and what they are."""
    return tag("dl", (tag("div", tag("dt", term), tag("dd", content)) for term, content in pairs))


def fold(summary: Any, *content: Any, printed: bool = False) -> Markup:
    """Content that a reader opens. printed: whether it opens by itself for paper."""
    return tag("details", tag("summary", summary), *content, class_="printed" if printed else None)
