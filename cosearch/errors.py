"""The errors a user can meet. Each message says what was got, what was expected and what to do next."""

import difflib
import shlex
from collections.abc import Iterable

MOST_CHARACTERS = 1500
"""Of a message."""


class CosearchError(Exception):
    """Base of every error raised for a user; the command line prints it on one line and ends with its status.

    A message that quotes a file may quote anything: it is put on one line, `shown`, and cut at `MOST_CHARACTERS`.
    """

    exit_status = 2

    def __init__(self, message: object = "") -> None:
        text = shown(" ".join(str(message).splitlines()))
        super().__init__(text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}...")


class UnknownNameError(CosearchError, KeyError):
    """A name that is not registered."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class DataError(CosearchError, ValueError):
    """A dataset that cannot be read or used."""


class ConfigError(CosearchError, ValueError):
    """An option, a configuration file or a combination of options that makes no sense."""


class HardwareError(CosearchError, ValueError):
    """A layer, a mapping or an accelerator that is malformed or does not fit; names the layer, level and number."""


class OperatorError(CosearchError, ValueError):
    """An argument of a torch operator that makes no sense; names the argument and says what is allowed."""


class InfeasibleError(CosearchError, ValueError):
    """Constraints that no candidate can meet; says the best value that can be reached."""


class RunError(CosearchError):
    """A run directory that is missing, foreign, damaged or in use."""


class StoppedError(CosearchError):
    """A run that a user stopped, by Ctrl-C, a signal or --minutes; what was done is kept."""

    exit_status = 3


def shown(text: str) -> str:
    """A text of one line as a terminal may have it: what would steer it, and halves of characters, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: object) -> str:
    """What an error of somebody else's says, on one line."""
    return " ".join(str(error).split())


def described(error: BaseException) -> str:
    """An error of somebody else's by its class and what it says, on one line."""
    said = one_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase that names the closest known spelling, or all of them: ``did you mean 'zcu102'?``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def command_line(*words: object) -> str:
    """A command of cosearch that can be copied into a shell, whatever its paths are called."""
    return shlex.join(["cosearch", *map(str, words)])
