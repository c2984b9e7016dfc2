"""Making the pages and putting them where they belong."""

from collections.abc import Sequence
from pathlib import Path

from cosearch.errors import CosearchError
from cosearch.report.facts import FINISHED, read_facts, state_of
from cosearch.report.kept import read_details
from cosearch.report.page import run_page
from cosearch.report.several import Comparison, comparison, several_page
from cosearch.runs import RunDirectory, read_log
from cosearch.writing import write_atomic

FILE = "report.html"


def write_report(path: Path | str, quiet: bool = False, trusted: bool = False) -> Path:
    """Make a run's report.html, also while it is going on. What takes time is found out once for a result.

    trusted: whether code that the directory names may be imported for that, see `cosearch.trust`.
    Returns: the file. Raises: RunError if it is no run directory, or a file of it is damaged.
    """
    run = RunDirectory.open(Path(path))
    no_details = ""
    if state_of(run, read_log(run.path)) == FINISHED and read_details(run) is None:
        from cosearch.progress import Reporter
        from cosearch.report.details import find_again

        try:
            find_again(run, Reporter(quiet), trusted)
        except CosearchError as error:  # what is known without is worth a page
            no_details = str(error)
    return write_page(run.path, no_details)


def write_page(run: Path, no_details: str = "") -> Path:
    """Make report.html of what is in a run directory. no_details: why the rest could not be found out, if so.

    Returns: the file. Raises: RunError.
    """
    write_atomic(run / FILE, run_page(read_facts(run, no_details)))
    return run / FILE


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
