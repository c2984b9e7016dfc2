"""The terminal: how text and tables reach it, so that nothing in them steers it."""

from collections.abc import Sequence
from typing import Any

from cosearch.errors import shown


def console(width: int = 112, stderr: bool = False) -> Any:
    """The terminal; wide enough for the tables where the output is a file or a pipe.

    Text is printed as it stands, whatever names of files, layers and devices hold: nothing in it is markup, and what
    would steer the terminal is escaped.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str("\n".join(map(shown, text.split("\n"))), **options)

    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "stderr": stderr}
    found = Plain(**options)
    return found if found.is_terminal else Plain(**options, width=max(found.width, width))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console().print(as_table(title, columns, rows))


def as_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        numeric = i > 0 and all(row[i][:1].isdigit() or row[i] in ("-", "") for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric or i == 0)
    for row in rows:
        table.add_row(*row)
    return table
