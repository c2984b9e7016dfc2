"""A dict per kind of plugin, entry points for other distributions, and a close-name hint on a miss.

A kind is the name of an entry-point group (``cosearch.spaces``, ``cosearch.devices``,
``cosearch.strategies``, ``cosearch.predictors``); the built-in members stand in a plain dict
``name -> "module:object"`` in the package that owns the kind, so that listing them imports nothing.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from cosearch.errors import ConfigError, UnknownNameError, nearest

folder: str | None = None
"""Where a module that a user names is looked for, after all that is installed: the folder in which a command is given.
It joins the path when it has one. Were it there before, whoever made the folder could have code run by files that are
called like modules that some library would use if they were there."""


def names(kind: str, builtin: Mapping[str, str]) -> dict[str, str]:
    """All members of a kind, built in and installed: ``name -> "module:object"``.

    Raises: ConfigError if an installed plugin takes a name that exists.
    """
    known = dict(builtin)
    for point in importlib.metadata.entry_points(group=f"cosearch.{kind}"):
        if known.get(point.name, point.value) != point.value:
            raise ConfigError(
                f"two {kind} are called {point.name!r} ({known[point.name]} and {point.value}): uninstall one of them"
            )
        known[point.name] = point.value
    return known


def find_module(package: str) -> ModuleSpec | None:
    """Where a module or package is, without importing it.

    Raises: ImportError or ValueError for a name that is none.
    """
    found = importlib.util.find_spec(package)
    if found is None and folder is not None:
        return PathFinder.find_spec(package, [folder])
    return found


def load_object(path: str) -> Any:
    """Import ``module:object``.

    Raises: UnknownNameError if the module or the object does not exist.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or module_name.startswith("."):
        raise UnknownNameError(f"no module {module_name!r}: {path!r} must be an importable module:object")
    _join_folder(module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the module exists; something that it imports does not
        raise UnknownNameError(f"no module {module_name!r}: {path!r} must be an importable module:object") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = [name for name in vars(module) if not name.startswith("_")]
        hint = nearest(attribute, public)
        raise UnknownNameError(f"module {module_name!r} has no object {attribute!r}: {hint}") from None


def _join_folder(package: str) -> None:
    """Put `folder` at the end of the path if only there is such a module, whose code may import its neighbours."""
    if folder is None or folder in sys.path or package in sys.modules:
        return
    with suppress(ImportError, ValueError):
        if importlib.util.find_spec(package) is None and PathFinder.find_spec(package, [folder]) is not None:
            sys.path.append(folder)


def find(kind: str, builtin: Mapping[str, str], name: str) -> Any:
    """The object registered under a name, or at ``module:object``.

    Raises: UnknownNameError with the nearest known name.
    """
    known = names(kind, builtin)
    if not isinstance(name, str):
        raise UnknownNameError(f"a name among the {kind} is text, got {name!r}: known: {', '.join(known)}"[:300])
    if ":" in name:
        return load_object(name)
    if name not in known:
        raise UnknownNameError(f"unknown name {name!r} among the {kind}: {nearest(name, known)}")
    return load_object(known[name])
