"""Making the pages and putting them where they belong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cosearch.errors import CosearchError
from cosearch.report.facts import FINISHED, Facts, read_facts
from cosearch.report.kept import read_details
from cosearch.report.page import run_page
from cosearch.report.several import Comparison, comparison, several_page
from cosearch.runs import RunDirectory
from cosearch.writing import write_atomic

FILE = "report.html"


def write_report(path: Path | str, quiet: bool = False, trusted: bool = False) -> Path:
    """Make a run's report.html, also while it is going on. What takes time is found out once for a result.

    trusted: whether code that the directory names may be imported for that, see `cosearch.trust`.
    Returns: the file. Raises: RunError if it is no run directory, or a file of it is damaged.
    """
    facts = read_facts(Path(path))
    if facts.state == FINISHED and facts.details is None:
        from cosearch.progress import Reporter
        from cosearch.report.details import find_again

        run = RunDirectory.open(facts.path)
        try:
            find_again(run, Reporter(quiet), trusted)
            facts = replace(facts, details=read_details(run, facts.objectives))
        except CosearchError as error:  # what is known without is worth a page
            facts = replace(facts, no_details=str(error))
    return _write(facts)


def write_page(run: Path) -> Path:
    """Make report.html of what is in a run directory.

    Returns: the file. Raises: RunError.
    """
    return _write(read_facts(run))


def _write(facts: Facts) -> Path:
    write_atomic(facts.path / FILE, run_page(facts))
    return facts.path / FILE


def read_several(paths: Sequence[Path | str]) -> Comparison:
    """Raises: RunError if one is no finished run, or they have no objectives in common."""
    return comparison([read_facts(Path(path)) for path in paths])


def compare(runs: "Comparison | Sequence[Path | str]", to: Path | str = "compare.html") -> Path:
    """Make one page of several finished runs; runs that differ in their seed only are taken together.

    Returns: the file. Raises: what `read_several` raises; RunError if the page cannot be written.
    """
    compared = runs if isinstance(runs, Comparison) else read_several(runs)
    write_atomic(Path(to), several_page(compared))
    return Path(to)
