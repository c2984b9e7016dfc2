"""Making the pages and putting them where they belong."""

from pathlib import Path

from cosearch.report.facts import read_facts
from cosearch.report.page import run_page
from cosearch.runs import write_atomic

FILE = "report.html"


def write_page(run: Path, no_details: str = "") -> Path:
    """Make report.html from what is in a run directory. no_details: why report.json could not be made, if so.

    Returns: the file. Raises: RunError.
    """
    content = run_page(read_facts(run, no_details))
    write_atomic(run / FILE, content)
    return run / FILE
