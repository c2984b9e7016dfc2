"""What every page has: its head, its style and script, its sections with a way to them, its charts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosearch.report.markup import Markup, data_script, tag

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """name: its anchor; short: how the way to it is called."""

    name: str
    short: str
    title: str
    body: Markup


def page(title: str, head: Markup, sections: Sequence[Section], foot: Markup) -> str:
    """A whole document with everything in it: it needs no network."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    ways = (tag("li", tag("a", section.short, href=f"#{section.name}")) for section in sections)
    parts = (
        tag("section", tag("h2", section.title, id=f"{section.name}-title"), section.body, id=section.name,
            aria_labelledby=f"{section.name}-title")
        for section in sections
    )  # fmt: skip
    document = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", http_equiv="Content-Security-Policy",
                content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"),
            tag("title", title),
            tag("link", rel="icon", href="data:,"),
            tag("style", Markup(style)),
        ),
        tag(
            "body",
            tag("a", "To the report", href="#main", class_="skip"),
            tag("header", head),
            tag("nav", tag("ol", ways), aria_label="Parts of this report"),
            tag("main", parts, id="main"),
            tag("footer", foot),
            tag("script", Markup(script)),
        ),
        lang="en",
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{document}\n"


def chart(name: str, title: str, note: str, alt: str, spec: dict[str, Any]) -> Markup:
    """A figure that page.js draws. alt: what it shows, in words; spec: see page.js."""
    return tag(
        "figure",
        tag("figcaption", tag("strong", title), tag("span", note, class_="quiet") if note else None),
        tag("div", tag("noscript", alt), class_="plot"),
        data_script(f"{name}-data", {**spec, "alt": f"{title}. {alt}"}),
        class_="chart",
        id=name,
    )


def tiles(entries: Iterable[tuple[str, str, Any]]) -> Markup:
    """(what, figure, what stands beside it)."""
    return tag(
        "div",
        (
            tag(
                "div",
                tag("div", what, class_="what"),
                tag("div", figure, class_="figure"),
                tag("div", beside, class_="beside"),
                class_="tile",
            )
            for what, figure, beside in entries
        ),
        class_="tiles",
    )


def meter(name: str, used: float, budget: float) -> Markup:
    """A bar of how much of a budget is used."""
    part = used / budget if budget else 0.0
    said = f"{used:,.0f} of {budget:,.0f} ({100 * part:.0f}%)"
    bar = tag("div", tag("div", "", class_="used", style=f"width:{min(100.0, 100 * part):.2f}%"), class_="bar")
    return tag(
        "div",
        tag("div", tag("span", name), tag("span", said), class_="row"),
        bar,
        class_="meter",
        role="img",
        aria_label=f"{name}: {said}",
    )


def paragraph(*text: Any, kind: str | None = None) -> Markup:
    return tag("p", *text, class_=kind)


def bullets(items: Iterable[Any]) -> Markup:
    return tag("ul", (tag("li", item) for item in items))


def code(text: str) -> Markup:
    return tag("code", text)
