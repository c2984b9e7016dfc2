"""Write our best mappings on ZigZag's accelerators for ZigZag to price: `python -m tests.benchmarks.tools_ours FILE`.

See `tools_zigzag`, whose --confirm reads the file.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.tools_common import EVEN_LAYERS, LAYERS, RECORDINGS, is_depthwise
from tests.references.zigzag_machines import in_zigzags_words, search

OBJECTIVES = ("latency", "energy")


def best_mappings() -> list[dict[str, Any]]:
    """The least latency and the least energy of every layer on both accelerators, in ZigZag's words.

    Depthwise layers twice: with ZigZag's shipped unrolling, and with one that is searched ("unrolling": "free").
    """
    hardware = json.loads((RECORDINGS / "zigzag.json").read_text())["hardware"]
    found = []
    for name, document in hardware.items():
        for layer in (*LAYERS, *EVEN_LAYERS):
            for free in (False, True) if is_depthwise(layer) else (False,):
                for objective in OBJECTIVES:
                    accelerator, mapping, _, _ = search(layer, name, document, objective, free)
                    asked = {"objective": objective} | ({"unrolling": "free"} if free else {})
                    found.append(in_zigzags_words(layer, accelerator, mapping) | asked)
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(best_mappings()))
