"""The main job over five seeds: accuracy, energy and what co-search bought, with the spread.

``python -m tests.benchmarks.main_job [--seeds 0,1,2,3,4] [--out FOLDER]`` runs the default job once per seed (about
three minutes each on two cores) and writes docs/benchmarks/main_job.md. Runs that are there already are read, not
repeated.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import cosearch
from cosearch.costs import AcceleratorCosts
from cosearch.errors import RunError
from cosearch.hardware.tensor import cost_tensor
from cosearch.results import Design, Result
from cosearch.strategies import Objectives
from search_spaces import accelerators, networks
from tests.benchmarks.machine import stamp

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "main_job.md"


def result_of(folder: Path, seed: int) -> Result:
    path = folder / f"seed{seed}"
    try:
        return cosearch.load(path)
    except RunError:
        return cosearch.resume(path) if path.exists() else cosearch.run(seed=seed, out=path)


def seconds_of(path: str) -> float:
    """Wall-clock of an uninterrupted run, from its log."""
    lines = [json.loads(line) for line in (Path(path) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(lines[-1]["time"] - lines[0]["time"])


def by_name(result: Result) -> dict[str, Design]:
    return {design.name: design for design in result.designs}


def spread(values: list[float], scale: float = 1.0, digits: int = 2) -> str:
    array = scale * np.array(values)
    return f"{array.mean():.{digits}f} ({array.min():.{digits}f} to {array.max():.{digits}f})"


def report(results: list[Result], seeds: list[int]) -> str:
    designs = [by_name(result) for result in results]
    names = [name for name in designs[0] if not designs[0][name].infeasible]
    lines = [
        "# The main job over seeds",
        "",
        "`cosearch run --space shiftadd --device fpga` with no other option but the seed; default data and budget.",
        f"Seeds {', '.join(map(str, seeds))}. Accuracies are measured on the test images (integer networks, mean of",
        "three trainings each); latency and energy are modelled. Made by `python -m tests.benchmarks.main_job`.",
        "",
        stamp(),
        "",
        "| design | test accuracy %, mean over seeds (least to most) | latency, us | energy, uJ |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        rows = [d[name] for d in designs]
        lines.append(
            f"| {name} | {spread([r.accuracy for r in rows], 100)} | {spread([r.latency_ms or 0 for r in rows], 1e3)} "
            f"| {spread([r.energy_mj or 0 for r in rows], 1e3)} |"
        )
    lines += [
        "",
        "| seed | finalist % | energy to conv-only | energy to conv-only @ default | points to conv-only | seconds |",
    ]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    verdicts: dict[str, int] = dict.fromkeys(CLAIMS, 0)
    for seed, result, d in zip(seeds, results, designs, strict=True):
        ours, conv, default = d["co-search"], d["conv-only"], d["conv-only @ default"]
        to_conv, to_default = _ratio(ours, conv), _ratio(ours, default)
        points = 100 * (ours.accuracy - conv.accuracy)
        lines.append(
            f"| {seed} | {100 * ours.accuracy:.2f} | {to_conv:.2f} | {to_default:.2f} | {points:+.2f} "
            f"| {seconds_of(result.path):.0f} |"
        )
        holds = (ours.accuracy >= 0.98, to_default <= 0.5, to_conv < 1.0, points >= -0.5)
        for claim, held in zip(CLAIMS, holds, strict=True):
            verdicts[claim] += held
    lines += ["", "The same block everywhere, each network on its own least-energy accelerator (modelled):", ""]
    lines += [
        "| block | conv, uJ | shift, uJ | add, uJ | shift to conv | add to conv |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_equal_structure(block) for block in ("k3_e1", "k3_e3", "k5_e6")]
    lines += ["", *(f"- {claim}: holds in {held} of {len(seeds)} seeds." for claim, held in verdicts.items()), ""]
    return "\n".join(lines)


def _equal_structure(block: str) -> str:
    """Least energy of networks that differ in their operator only."""
    space = networks.find("shiftadd")((1, 8, 8), 10)
    tensor = cost_tensor(space.layer_table(), accelerators.find("fpga"))
    costs = AcceleratorCosts(space, tensor, Objectives())
    archs = [dict.fromkeys(space.choices, f"{operator}_{block}") for operator in ("conv", "shift", "add")]
    conv, shift, add = (1e3 * float(front.metric("energy_mj").min()) for front in costs.fronts(archs))
    return f"| {block} | {conv:.2f} | {shift:.2f} | {add:.2f} | {shift / conv:.2f} | {add / conv:.2f} |"


CLAIMS = (
    "the finalist reaches 98% mean test accuracy",
    "its energy is at most half of conv-only's on the default accelerator",
    "its energy is below conv-only's on its own best accelerator",
    "its accuracy is at most 0.5 points below conv-only's",
)


def _ratio(ours: Design, theirs: Design) -> float:
    assert ours.energy_mj is not None
    assert theirs.energy_mj is not None
    return ours.energy_mj / theirs.energy_mj


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--out", type=Path, default=Path("runs") / f"main-job-{time.strftime('%Y%m%d')}")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    results = [result_of(arguments.out, seed) for seed in seeds]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(report(results, seeds), encoding="utf-8")
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
