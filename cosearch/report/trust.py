"""How far to trust a run: what it knows about its own errors, and what it does not know."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cosearch.report.curves import common_box, hypervolume_curves, moves
from cosearch.report.facts import Facts, Trained
from cosearch.report.labels import percent, plural, title
from cosearch.report.markup import Markup, fold, join, table
from cosearch.report.shell import Section, paragraph
from cosearch.results import AT_DEFAULT, CO_SEARCH, CONV_ONLY, RANDOM, Design, Result, accuracy_difference
from cosearch.words import gap_words, policy_words
from search_spaces.decisions import arch_key

LEAST_FOR_RANKS = 8
"""Networks from which on a rank correlation says something."""
NOT_MEASURED = "not measured in this run"


def trust(facts: Facts) -> Section:
    body = join(table(["question", "what this run knows"], _answers(facts)), _unit_costs(facts))
    return Section("trust", "Trust", "How far to trust it", body)


def _answers(facts: Facts) -> Iterator[tuple[str, Any]]:
    result = facts.result
    if result is not None:
        yield "accuracy of the finalist", _accuracy(result)
    yield "the search's accuracies beside training alone", _ranks(facts)
    yield "error of predictors", _predictors(facts)
    yield "the mapper beside exhaustive search", _mapper(facts)
    for other in (RANDOM, CONV_ONLY):
        yield f"joint search beside {other}, equal evaluations", _beside_search(facts, other)
    if result is not None:
        others = [d for d in result.designs[1:] if d.name not in (RANDOM, CONV_ONLY)]
        for design in others:
            yield f"joint search beside {design.name}", _beside(result.finalist, design)
    yield "joint choice beside network first, accelerator second", _beside_sequential(facts)
    yield (
        "other search seeds",
        f"{NOT_MEASURED}: cosearch compare sets runs with other seeds side by side, with intervals",
    )
    yield "unit costs", _units_in_words(facts)
    if result is not None:
        lines = [note for note in result.notes if note.startswith("sensitivity")]
        yield (
            "does the order depend on modelled unit costs",
            lines[0].removeprefix("sensitivity: ") if lines else NOT_MEASURED,
        )
        yield "latency and energy", f"{result.costs_are}; not measured on hardware"


def _accuracy(result: Result) -> str:
    finalist = result.finalist
    if not finalist.correct:
        return "taken from a table; this run trained nothing and has no interval of its own"
    low, high = finalist.interval
    reached = finalist.integer_accuracies
    return (
        f"{finalist.accuracy:.4f}, 95% interval {low:.3f} to {high:.3f} over the draw of {finalist.test_images} test "
        f"images that nothing saw before; {plural(len(reached), 'training seed')}, {min(reached):.4f} to "
        f"{max(reached):.4f}"
    )


def kendall(pairs: list[tuple[float, float]]) -> float:
    """Kendall's tau-b. pairs: (x, y) of each thing."""
    from scipy.stats import kendalltau

    x, y = zip(*pairs, strict=True)
    return float(kendalltau(x, y).statistic)


def rank_pairs(facts: Facts, trained: Sequence[Trained]) -> list[tuple[float, float]]:
    """(accuracy in the search, mean accuracy alone) of every network that has both."""
    seen = {
        arch_key(t.arch): t.accuracy for trials in facts.searches.values() for t in trials if t.accuracy is not None
    }
    alone = [(arch_key(t.arch), float(np.mean(t.accuracies))) for t in trained]
    return [(seen[key], accuracy) for key, accuracy in alone if key in seen]


def _ranks(facts: Facts) -> str:
    if not facts.config.trains:
        return "this run trained nothing: its accuracies are the table's throughout"
    pairs, heats = rank_pairs(facts, facts.trained), rank_pairs(facts, facts.in_heats)
    said = "; ".join(f"{search:.4f} in the search, {alone:.4f} alone" for search, alone in pairs[:6])
    if len(pairs) >= LEAST_FOR_RANKS:
        return _tau(pairs)
    if len(heats) >= LEAST_FOR_RANKS:
        epochs = plural(facts.in_heats[0].epochs, "epoch")
        on_test = f"; on the test images: {said}" if said else ""
        return f"{_tau(heats)} trained alone for {epochs}, on the validation images{on_test}"
    return (
        f"rank correlation {NOT_MEASURED}: {len(pairs)} networks were trained alone"
        f"{f' ({said})' if said else ''}; --finalist-candidates {LEAST_FOR_RANKS} trains enough for one"
    )


def _tau(pairs: list[tuple[float, float]]) -> str:
    n, tau = len(pairs), kendall(pairs)
    if not np.isfinite(tau):
        return f"no rank correlation: the {n} networks have equal accuracies"
    error = float(np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))))
    return f"Kendall tau {tau:.2f} over {n} networks (standard error about {error:.2f})"


def _predictors(facts: Facts) -> str:
    models = (facts.details or {}).get("predictors", [])
    if models:
        return "; ".join(
            f"{title(m['of'])}: relative root mean square {percent(m['error'], 1)} in cross-validation, guessing the "
            f"mean {percent(m['floor'], 1)}"
            for m in models
        )
    if facts.details is None:
        return f"not known here: {facts.no_details or 'the run is not finished'}"
    return "no predictor stands between the search and its costs"


def _mapper(facts: Facts) -> str:
    finalist = (facts.details or {}).get("finalist")
    if finalist is None:
        return "no mapper in this run" if facts.details is not None else NOT_MEASURED
    sizes = [row["mapspace"] for row in finalist["layers"] if row["mapspace"]]
    if not sizes:
        return "no mappings: layers are priced in closed form"
    return (
        f"each layer's mapping is the best of {min(sizes):,} to {max(sizes):,} mappings of the declared mapspace, all "
        f"compared, for the policy of its engine ({policy_words(finalist['policies'].items())}): network latency alone "
        "and energy alone are exact optima; their product and what lies between are the best over a grid of policies. "
        "Gap of the finalist's energy-delay product to the convex-hull bound of any mapping for any layer on its "
        f"accelerator: {gap_words(finalist['edp'], finalist['edp_bound'])}. Mappings outside of the mapspace (other "
        "dataflows, fused layers) were not looked at"
    )


def _beside_search(facts: Facts, theirs: str) -> str:
    """Both searches in numbers: the dominated part of one box, and their finalists."""
    found = moves(facts)
    n = {name: len(trials) for name, trials in facts.searches.items()}
    said = []
    within = common_box(list(found.searches.values()), len(facts.objectives))
    if within is not None and n.get(CO_SEARCH) and n.get(CO_SEARCH) == n.get(theirs):
        reached = {name: curve[-1][1] for name, curve in hypervolume_curves(found.searches, n, within).items()}
        if CO_SEARCH in reached and theirs in reached:
            said.append(
                f"hypervolume {reached[CO_SEARCH]:.4f} beside {reached[theirs]:.4f} after {n[theirs]} evaluations each"
            )
    other = next((d for d in facts.result.designs if d.name == theirs), None) if facts.result is not None else None
    if other is not None and facts.result is not None:
        said.append(_beside(facts.result.finalist, other))
    if not said:
        return NOT_MEASURED
    return "; ".join(said) + "; one search each, so there is no interval over searches"


def _beside_sequential(facts: Facts) -> str:
    if facts.details is None:
        return f"not known here: {facts.no_details or 'the run is not finished'}"
    found = facts.details["sequential"]
    if found is None:
        return f"{NOT_MEASURED}: it takes an accelerator to choose, and accuracy beside latency or energy"
    said = []
    for row in found["rows"]:
        if row["ratio"] is None:
            continue
        if "interval" in row:
            mean, low, high = row["interval"]
            said.append(
                f"{row['search']}, cut into {row['parts']} searches of {row['size']} evaluations: {mean:.2f}x, 95% "
                f"interval {low:.2f} to {high:.2f}"
            )
        said.append(f"{row['search']}, all {plural(row['evaluations'], 'evaluation')}: {row['ratio']:.2f}x")
    if not said:
        return f"{NOT_MEASURED}: no network that is accurate enough runs on {found['accelerator']}"
    return (
        f"{'; '.join(said)}. The ratio is of {' times '.join(title(n) for n in found['costs'])}, modelled, of the two "
        "choices among the same evaluated networks, so it is at most 1. Network first: the cheapest of those accurate "
        f"enough on {found['accelerator']}, which serves all operators, then the best accelerator for it. Random "
        "proposals do not look at costs: both searches would have made them."
    )


def _beside(ours: Design, theirs: Design) -> str:
    if theirs.infeasible:
        return theirs.infeasible
    said = [
        f"{ours.costs[n] / theirs.costs[n]:.2f}x {title(n)}"
        for n in ("energy_mj", "latency_ms")
        if ours.costs.get(n) and theirs.costs.get(n)
    ]
    if ours.correct:
        mean, low, high = (100 * v for v in accuracy_difference(ours, theirs))
        said.append(f"{mean:+.2f} points of test accuracy, 95% interval {low:+.2f} to {high:+.2f}")
    else:
        said.append(f"{100 * (ours.accuracy - theirs.accuracy):+.2f} points of accuracy")
    own = theirs.name.endswith(AT_DEFAULT) and theirs.arch == ours.arch
    return ", ".join(said) + (" (the same network)" if own else "")


def _by_status(facts: Facts) -> dict[str, list[dict[str, Any]]]:
    units = (facts.details or {}).get("device", {}).get("unit_costs", [])
    return {status: [u for u in units if u["status"] == status] for status in ("measured", "published", "modelled")}


def _units_in_words(facts: Facts) -> str:
    found = _by_status(facts)
    if any(found.values()):
        return ", ".join(f"{len(units)} {status}" for status, units in found.items()) + "; each with its source below"
    if facts.details is None:
        return f"not known here: {facts.no_details or 'the run is not finished'}"
    return f"none: costs are {facts.result.costs_are}" if facts.result is not None else "none"


def _unit_costs(facts: Facts) -> Markup | None:
    found = _by_status(facts)
    if not any(found.values()):
        return None
    rows = [
        [unit["name"], f"{unit['value']:g}", unit["unit"], unit["status"], unit["source"]]
        for units in found.values()
        for unit in units
    ]
    shown = table(["unit cost", "value", "unit", "how it is known", "source"], rows, (1,))
    note = paragraph("Accuracies are measured, unless they come from a table or a predictor.", kind="quiet small")
    return join(fold(f"All {len(rows)} unit costs with their sources", shown), note)
