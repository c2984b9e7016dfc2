import importlib
import importlib.metadata
import math
import sys

import pytest

from cosearch import registry
from cosearch.errors import ConfigError, UnknownNameError

BUILTIN = {"pi": "math:pi", "sqrt": "math:sqrt"}


def install(monkeypatch, *points: tuple[str, str]) -> None:
    """Pretend that a distribution with these entry points is installed."""
    found = [importlib.metadata.EntryPoint(name, value, "cosearch.things") for name, value in points]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [p for p in found if p.group == group] if found else []
    )


def test_builtin_members_and_installed_ones(monkeypatch):
    install(monkeypatch, ("tau", "math:tau"))
    assert registry.names("things", BUILTIN) == {**BUILTIN, "tau": "math:tau"}
    assert registry.names("others", BUILTIN) == BUILTIN
    assert registry.find("things", BUILTIN, "tau") == registry.find("things", BUILTIN, "math:tau")
    assert "tau" not in BUILTIN


def test_two_plugins_of_one_name_are_an_error_unless_they_are_the_same(monkeypatch):
    install(monkeypatch, ("pi", "math:pi"))
    assert registry.names("things", BUILTIN) == BUILTIN
    install(monkeypatch, ("pi", "math:tau"))
    with pytest.raises(ConfigError, match=r"two things are called 'pi' \(math:pi and math:tau\)"):
        registry.find("things", BUILTIN, "sqrt")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sqr", "did you mean 'sqrt'"),
        ("zzz", "known: pi, sqrt"),
        ("", "known: pi, sqrt"),
        ("math:sqrtt", "did you mean 'sqrt'"),
        ("no_such_module:x", "no module 'no_such_module'"),
        ("math.deeper:x", "no module 'math.deeper'"),
        ("math:", "has no object ''"),
        (":pi", "no module ''"),
    ],
)
def test_a_miss_names_the_nearest(name, hint):
    with pytest.raises(UnknownNameError) as caught:
        registry.find("things", BUILTIN, name)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_to_import_something_else_says_what(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("import a_missing_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_missing_dependency"):
        registry.find("things", {}, "broken_plugin:space")


def test_the_projects_own_members_load():
    from cosearch.strategies import STRATEGIES
    from predictors import PREDICTORS
    from search_spaces.accelerators import ACCELERATORS
    from search_spaces.networks import SPACES

    for kind, members in (
        ("spaces", SPACES),
        ("devices", ACCELERATORS),
        ("strategies", STRATEGIES),
        ("predictors", PREDICTORS),
    ):
        for name in members:
            assert callable(registry.find(kind, members, name))


def test_the_folder_of_a_command_joins_the_path_with_a_module_that_is_named(tmp_path, monkeypatch):
    """And with none that is only looked for; what is installed goes before."""
    (tmp_path / "own_plugin.py").write_text("from own_neighbour import value\n")
    (tmp_path / "own_neighbour.py").write_text("value = 3\n")
    (tmp_path / "math.py").write_text("pi = 4\n")
    monkeypatch.setattr(registry, "folder", str(tmp_path))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(ImportError):
        importlib.import_module("own_neighbour")
    assert registry.find("things", {}, "math:pi") == math.pi
    assert registry.find_module("own_plugin").origin == str(tmp_path / "own_plugin.py")
    assert registry.find_module("no_such_plugin") is None
    with pytest.raises(UnknownNameError, match="no module 'no_such_plugin'"):
        registry.find("things", {}, "no_such_plugin:value")
    assert str(tmp_path) not in sys.path
    assert registry.find("things", {}, "own_plugin:value") == 3
    assert sys.path[-1] == str(tmp_path)
