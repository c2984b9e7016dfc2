"""What the phases of a run have in common: where they write, what is searched, whom they tell, and when they stop."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosearch.errors import StoppedError
from cosearch.problem import Problem
from cosearch.progress import Reporter
from cosearch.runs import RunDirectory

if TYPE_CHECKING:
    from cosearch.distributed.workers import Workers


@dataclass(frozen=True)
class Job:
    """run: its directory, held by this process. deadline: of --minutes, on `time.monotonic`. cluster: Ray, if asked."""

    run: RunDirectory
    problem: Problem
    reporter: Reporter
    deadline: float = math.inf
    cluster: "Workers | None" = None

    def require_time(self) -> None:
        """Raises: StoppedError if the time is over."""
        if time.monotonic() > self.deadline:
            raise self.out_of_time()

    def out_of_time(self) -> StoppedError:
        return StoppedError(f"stopped by --minutes; what was done is kept, continue with: {self.run.resume_command}")
