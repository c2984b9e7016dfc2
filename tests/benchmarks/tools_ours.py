"""Write our best mappings on ZigZag's accelerators for ZigZag to price: `python -m tests.benchmarks.tools_ours FILE`.

See `tools_zigzag`, whose --confirm reads the file.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.tools_common import EVEN_LAYERS, LAYERS, RECORDINGS
from tests.references.zigzag_machines import in_zigzags_words, search

OBJECTIVES = ("latency", "energy")


def best_mappings() -> list[dict[str, Any]]:
    """The least latency and the least energy of every layer on both accelerators, in ZigZag's words."""
    hardware = json.loads((RECORDINGS / "zigzag.json").read_text())["hardware"]
    found = []
    for name, document in hardware.items():
        for layer in (*LAYERS, *EVEN_LAYERS):
            for objective in OBJECTIVES:
                accelerator, mapping, _, _ = search(layer, name, document, objective)
                found.append(in_zigzags_words(layer, accelerator, mapping) | {"objective": objective})
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(best_mappings()))
