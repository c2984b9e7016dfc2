"""What a user sees while a run works: the phase, what is done of it, the best so far, the time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cosearch.errors import shown
from cosearch.terminal import console


class Phase:
    """One bar; `advance` moves it."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        if self._progress is not None:
            extra = {} if note is None else {"note": shown(note)}
            self._progress.update(self._task, advance=steps, **extra)

    def expect(self, total: int) -> None:
        """It takes so many steps in all, not as many as was thought."""
        if self._progress is not None:
            self._progress.update(self._task, total=total)


class Reporter:
    """Rich progress and text on standard error, so that results can be piped; silent if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = console(stderr=True)
        self.quiet = quiet

    def say(self, *text: Any) -> None:
        if not self.quiet:
            self.console.print(*text, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        if self.quiet:
            yield Phase(None, None)
            return
        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=False, refresh_per_second=4) as progress:
            task = progress.add_task(name, total=total, completed=done, note="")
            yield Phase(progress, task)
