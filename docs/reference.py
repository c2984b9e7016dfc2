"""Build the API reference from the docstrings: ``python docs/reference.py --to FOLDER`` (needs the extra ``docs``).

Every warning is an error: a name in ``__all__`` that does not exist, a link or an annotation that does not resolve.
"""

import argparse
import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

PACKAGES = ("cosearch", "search_spaces", "predictors", "hwbench_data")


def modules() -> Iterator[ModuleType]:
    """Every public module of the four packages."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part.startswith("_") for part in found.name.split(".")):
                yield importlib.import_module(found.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the API reference.")
    parser.add_argument("--to", type=Path, default=Path("docs/reference"), help="folder for the pages")
    folder = parser.parse_args().to
    import pdoc

    warnings.simplefilter("error", UserWarning)
    found = {module.__name__: module for module in modules()}
    for module in found.values():
        for name in getattr(module, "__all__", ()):
            setattr(module, name, getattr(module, name))  # what is loaded on first use is looked for in the module
    pdoc.render.configure(docformat="restructuredtext", footer_text="cosearch")
    # pdoc walks a package itself unless its __all__ hides the modules
    hidden = [name for name in found if hasattr(found.get(name.rpartition(".")[0]), "__all__")]
    pdoc.pdoc(*PACKAGES, *hidden, output_directory=folder)
    print(f"{len(found)} modules in {folder}/index.html")


if __name__ == "__main__":
    main()
