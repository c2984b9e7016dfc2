"""What no code of the project does, by its syntax trees: nothing that files can turn into code, and no shell.

Names are followed through imports and their aliases. What is allowed all the same stands in `ALLOWED`, with the reason.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cosearch

ROOT = Path(cosearch.__file__).parents[1]
PACKAGES = ("cosearch", "search_spaces", "predictors", "hwbench_data")

NEVER = frozenset(
    {
        "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile",
        "pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads", "_pickle.Unpickler",
        "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load", "pandas.read_pickle",
        "shelve.open", "marshal.load", "marshal.loads", "torch.jit.load", "torch.package.PackageImporter",
        "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "yaml.Loader",
        "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader", "yaml.CFullLoader", "yaml.CUnsafeLoader",
        "os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.execl", "os.execlp", "os.spawnv",
        "os.spawnl", "os.posix_spawn", "pty.spawn", "subprocess.getoutput", "subprocess.getstatusoutput",
        "asyncio.create_subprocess_shell", "runpy.run_path", "runpy.run_module", "importlib.import_module",
        "code.interact", "code.InteractiveInterpreter", "types.CodeType", "types.FunctionType",
    }
)  # fmt: skip
"""Not even named."""

ALLOWED = {
    ("cosearch/unpickling.py", "pickle.Unpickler"): "restricted: it finds no class but those of plain data and arrays, "
    "for public tables and CIFAR; tests/test_unpickling.py",
    ("cosearch/distributed/packing.py", "pickle.loads"): "what Ray's workers send each other within one cluster, which "
    "runs this code anyway; nothing of it is a file or comes from a user",
    ("cosearch/registry.py", "importlib.import_module"): "a registered name, or one that the user gave: see "
    "cosearch/trust.py",
    ("cosearch/operators/__init__.py", "importlib.import_module"): "own modules, by a fixed table, on first use",
    ("cosearch/hardware/__init__.py", "importlib.import_module"): "own modules, by a fixed table, on first use",
    ("hwbench_data/__init__.py", "importlib.import_module"): "own modules, by a fixed table, on first use",
}
"""(file, what is named) -> why."""


def names_of(tree: ast.AST) -> dict[str, str]:
    """Name in a module -> what it stands for: ``np`` -> ``numpy``, ``loads`` -> ``pickle.loads``."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return known


def full_name(node: ast.AST, known: dict[str, str]) -> str:
    """``numpy.load`` of ``np.load``; empty for what is no dotted name."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        left = full_name(node.value, known)
        return f"{left}.{node.attr}" if left else ""
    return ""


def found_in(code: str) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that is forbidden in a module."""
    tree = ast.parse(code)
    known = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in NEVER or alias.name == "*":
                    yield node.lineno, name
        if isinstance(node, ast.Name | ast.Attribute) and full_name(node, known) in NEVER:
            yield node.lineno, full_name(node, known)
        if isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _calls(node, known))


def _calls(node: ast.Call, known: dict[str, str]) -> Iterator[str]:
    """What is forbidden of a call by its arguments."""
    called = full_name(node.func, known)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if None in given and (called.startswith("subprocess.") or called in ("numpy.load", "torch.load", "yaml.load")):
        yield f"{called}(**...)"  # what it is given cannot be seen
    if not _is(given.get("shell"), False) and "shell" in given:
        yield f"{called}(shell=...)"
    if not _is(given.get("allow_pickle"), False) and "allow_pickle" in given:
        yield f"{called}(allow_pickle=...)"
    if called == "numpy.load" and len(node.args) > 2:
        yield "numpy.load(..., allow_pickle)"
    if called == "torch.load" and not _is(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if called in ("yaml.load", "yaml.load_all"):
        loader = given.get("Loader", node.args[1] if len(node.args) > 1 else None)
        if loader is None or full_name(loader, known) not in ("yaml.SafeLoader", "yaml.CSafeLoader"):
            yield f"{called} without a safe loader"
    if called == "getattr" and node.args and full_name(node.args[0], known) in {n.partition(".")[0] for n in NEVER}:
        name = node.args[1] if len(node.args) > 1 else None
        said = name.value if isinstance(name, ast.Constant) else "?"
        module = full_name(node.args[0], known)
        if said == "?" or f"{module}.{said}" in NEVER:
            yield f"getattr({module}, {said})"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_file_name_is_given_to_a_shell_and_nothing_is_evaluated():
    """No shell, no eval, no pickle but through the restricted unpickler, YAML by its safe loader alone."""
    files = [f for package in PACKAGES for f in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found: dict[tuple[str, str], list[int]] = {}
    for file in files:
        for line, what in found_in(file.read_text(encoding="utf-8")):
            found.setdefault((str(file.relative_to(ROOT)), what), []).append(line)
    assert {place: lines for place, lines in found.items() if place not in ALLOWED} == {}
    assert set(ALLOWED) <= set(found), "what is allowed and not there any more is no exemption"


FORBIDDEN = {
    "eval('1')": "eval",
    "f = exec": "exec",
    "import pickle\npickle.load(f)": "pickle.load",
    "import pickle as p\np.loads(b)": "pickle.loads",
    "from pickle import loads\nloads(b)": "pickle.loads",
    "from pickle import loads as f": "pickle.loads",
    "from pickle import *": "pickle.*",
    "import pickle\nclass A(pickle.Unpickler): pass": "pickle.Unpickler",
    "import pickle\nmap(pickle.loads, x)": "pickle.loads",
    "import pickle\ngetattr(pickle, 'loads')(b)": "getattr(pickle, loads)",
    "import os\ngetattr(os, name)(b)": "getattr(os, ?)",
    "import ray.cloudpickle": None,
    "from torch import load\nload(f)": "torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=False)": "torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=flag)": "torch.load without weights_only=True",
    "import torch\ntorch.load(f, weights_only=True)": None,
    "import yaml\nyaml.load(f)": "yaml.load without a safe loader",
    "import yaml\nyaml.load(f, Loader=yaml.Loader)": "yaml.Loader",
    "import yaml\nyaml.load(f, yaml.SafeLoader)": None,
    "import yaml\nyaml.safe_load(f)": None,
    "import os\nos.system(c)": "os.system",
    "from os import system": "os.system",
    "import subprocess\nsubprocess.run(c, shell=True)": "subprocess.run(shell=...)",
    "import subprocess as s\ns.Popen(c, shell=flag)": "subprocess.Popen(shell=...)",
    "import subprocess\nsubprocess.run(c, **options)": "subprocess.run(**...)",
    "import subprocess\nsubprocess.run(c, shell=False)": None,
    "import numpy as np\nnp.load(f, allow_pickle=True)": "numpy.load(allow_pickle=...)",
    "import numpy as np\nnp.load(f, None, True)": "numpy.load(..., allow_pickle)",
    "import numpy as np\nnp.load(f)": None,
    "import pandas as pd\npd.read_pickle(f)": "pandas.read_pickle",
    "self.eval()\nmodel.compile()": None,
    "import re\nre.compile('a')": None,
}


@pytest.mark.parametrize("code", FORBIDDEN)
def test_the_scan_sees_it(code):
    found = {what for _, what in found_in(code)}
    assert found == set() if FORBIDDEN[code] is None else FORBIDDEN[code] in found
