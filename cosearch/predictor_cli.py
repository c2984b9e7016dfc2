"""``cosearch predict`` and ``cosearch predictor``: learned costs from bundled tables or a user's own measurements."""

import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cosearch.costs import Measurements
    from predictors.arch import ArchPredictor

predictor = typer.Typer(
    name="predictor", help="Learned predictors: train, evaluate, adapt to a device.", no_args_is_help=True
)

Space = Annotated[str, typer.Option(help="Network space.")]
Shape = Annotated[
    str | None,
    typer.Option("--input-shape", help="channels,height,width of your images; the space's own.", show_default=False),
]
Classes = Annotated[
    int | None, typer.Option("--num-classes", min=2, help="Of your data; the space's own.", show_default=False)
]
Target = Annotated[str, typer.Option(help="The column to predict: latency_ms, energy_mj or accuracy.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Predictor file to write.", show_default=False)]
DISAGREE = 0.2
"""Values of one network that differ by more than this part of their mean are told of."""
Seed = Annotated[int, typer.Option(min=0, help="Of folds and of everything random in the models.")]


def predict(
    space: Annotated[
        str | None, typer.Option(help="Network space; a file's own, or nasbench201.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="A device with a predictor that ships, or a predictor file.")] = "",
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="JSON object, name=choice pairs joined by ';', a cell's index or notation. May be repeated.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What to predict; a file's own, or latency_ms.", show_default=False)
    ] = None,
    coverage: Annotated[float, typer.Option(help="Of the interval that is printed.")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict what networks cost on a device, with an interval, and whether they are like what was learned from."""
    from cosearch.errors import ConfigError
    from cosearch.terminal import print_table
    from predictors import shipped
    from search_spaces.decisions import parse_arch

    if not device and (space or "nasbench201", shipped.ANY, target) in shipped.available():
        device = shipped.ANY  # an accuracy is that of all devices
    if not device:
        asked = space or "nasbench201"
        known = ", ".join(sorted({d for s, d, _ in shipped.available() if s == asked and d != shipped.POOL})) or "none"
        raise ConfigError(f"--device is missing: a predictor file, or one that ships for {asked}: {known}")
    if os.path.isfile(device):
        model, card = _open(device)
        _agree(device, "--space", space, model.space.name)
        _agree(device, "--target", target, card.get("target"))
    else:
        model, card = shipped.predictor(space or "nasbench201", device, target or "latency_ms")
    if not arch:
        raise ConfigError("--arch is missing: a JSON object, name=choice pairs joined by ';', or the index of a cell")
    archs = [parse_arch(text, model.space) for text in arch]
    mean, std = model.predict(archs)
    low, high = model.interval(archs, coverage)
    outside = model.outside(archs)
    unit = card.get("target", target or "latency_ms")
    if as_json:
        found = zip(archs, mean, std, low, high, outside, strict=True)
        said = [
            {"arch": a, unit: float(m), "std": float(s), "interval": [float(lo), float(hi)], "like_training": not out}
            for a, m, s, lo, hi, out in found
        ]
        print(json.dumps({"device": device, "coverage": coverage, "networks": said}, indent=1))
        return
    rows = [
        (_folded(text), f"{m:.5g}", f"{s:.2g}", f"{a:.5g} to {b:.5g}", "no" if out else "yes")
        for text, m, s, a, b, out in zip(arch, mean, std, low, high, outside, strict=True)
    ]
    print_table(f"{unit} on {device}", ("network", unit, "std", f"{100 * coverage:g}% interval", "like training"), rows)


@predictor.command()
def train(
    table: Annotated[Path, typer.Argument(help="CSV with a column arch and the target's.")],
    space: Space = "nasbench201",
    input_shape: Shape = None,
    num_classes: Classes = None,
    target: Target = "latency_ms",
    model: Annotated[str, typer.Option(help="auto, or a registered predictor such as gp or boosting.")] = "auto",
    option: Annotated[
        list[str] | None,
        typer.Option(help="name=value of the model, such as loss=hinge of mlp. May be repeated.", show_default=False),
    ] = None,
    output: Output = None,
    seed: Seed = 0,
) -> None:
    """Train a predictor on a table of networks; features and model are chosen by cross-validation."""
    from predictors.arch import ArchPredictor

    made = _space(space, input_shape, num_classes)
    measured = _measured(table, made, target)
    fitted = ArchPredictor(made, model, positive=target != "accuracy", seed=seed, options=_options(option or ()))
    fitted.fit(measured.archs, measured.values[target])
    _report(fitted, target)
    _write(fitted, output or table.with_suffix(".predictor"), table, target)


@predictor.command()
def choose(
    n: Annotated[int, typer.Option("-n", min=1, help="How many networks to measure next.")] = 10,
    space: Space = "nasbench201",
    input_shape: Shape = None,
    num_classes: Classes = None,
    target: Target = "latency_ms",
    measurements: Annotated[
        Path | None, typer.Option(help="CSV of what is measured already.", show_default=False)
    ] = None,
    seed: Seed = 0,
) -> None:
    """Name the networks whose measurements would tell most of an unknown device, one a line.

    `cosearch bench measure --archs` takes such lines; with the measured figure beside each, `predictor adapt` does.
    """
    from cosearch.errors import ConfigError
    from hwbench_data.networks import notation
    from predictors.arch import choose_networks
    from predictors.shipped import known_pool

    made = _space(space, input_shape, num_classes)
    pool = known_pool(made, target)
    if pool is None:
        raise ConfigError(
            f"no pool of devices ships for {target} in space {space}, by which to choose: measure networks at random"
        )
    known = _measured(measurements, made, target).archs if measurements is not None else ()
    for arch in choose_networks(made, pool, n, known, seed):
        typer.echo(notation(arch))


@predictor.command()
def adapt(
    measurements: Annotated[Path, typer.Option(help="CSV with a column arch and the target's: ten lines are enough.")],
    space: Space = "nasbench201",
    input_shape: Shape = None,
    num_classes: Classes = None,
    target: Target = "latency_ms",
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Predictor file of another device, used if it does better than what ships."),
    ] = None,
    output: Output = None,
    seed: Seed = 0,
) -> None:
    """A predictor for your device from a few measurements, with what is known of other devices."""
    from predictors.arch import ArchPredictor
    from predictors.shipped import known_pool

    known = _open(str(source))[0] if source is not None else None
    made = known.space if known is not None else _space(space, input_shape, num_classes)
    measured = _measured(measurements, made, target)
    archs, values = measured.archs, measured.values[target]
    pool = known_pool(made, target)
    if pool is None and known is None:
        typer.echo(f"No pool of devices ships for {target} in space {space}: the measurements stand alone.")
    fresh = ArchPredictor(made, positive=target != "accuracy", pool=pool, seed=seed)
    fitted = fresh.fit(archs, values) if known is None else known.adapt(archs, values, fresh)
    _report(fitted, target)
    _write(fitted, output or measurements.with_suffix(".predictor"), measurements, target)


@predictor.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="A predictor file.")],
    table: Annotated[Path | None, typer.Argument(help="CSV of networks that it did not learn from.")] = None,
    target: Annotated[str | None, typer.Option(help="The column; the file's own by default.")] = None,
) -> None:
    """Print a predictor's card, and how well it predicts the networks of a table."""
    from predictors.scoring import scores

    model, card = _open(str(file))
    shown = {key: value for key, value in card.items() if key not in ("options", "format")}
    typer.echo(json.dumps(shown, indent=2))
    if table is None:
        return
    column = target or str(card.get("target", "latency_ms"))
    measured = _measured(table, model.space, column)
    mean, _ = model.predict(measured.archs)
    low, high = model.interval(measured.archs, 0.8)
    found = scores(mean, measured.values[column])
    inside = float(((low <= measured.values[column]) & (measured.values[column] <= high)).mean())
    typer.echo(
        f"{len(measured.archs)} networks: Spearman {found['spearman']:.3f}, Kendall tau {found['kendall_tau']:.3f}, "
        f"mean error {found['mape']:.1%}, within 10% {found['within_10_percent']:.0%}, "
        f"in the 80% interval {inside:.0%}, unlike training {model.outside(measured.archs).mean():.0%}."
    )


def _agree(file: str, option: str, asked: str | None, known: str | None) -> None:
    """Raises: ConfigError for an option that contradicts what a predictor file says of itself."""
    from cosearch.errors import ConfigError

    if asked and known and asked != known:
        raise ConfigError(f"{option} {asked} contradicts {file}, which predicts {known}: leave the option out")


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Options of a model from name=value; a value is JSON, or a plain word.

    Raises: ConfigError for one without a name or value, or a name that is given twice.
    """
    from cosearch.errors import ConfigError, DataError
    from cosearch.reading import parse_json

    found: dict[str, Any] = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name or not value or name in found:
            raise ConfigError(f"--option {text!r:.60}: expected name=value, each name once, such as loss=hinge")
        try:
            found[name] = parse_json(value)
        except (DataError, ValueError):
            found[name] = value
    return found


def _folded(text: str) -> str:
    """A network over as many lines as it needs: what tells two apart may stand at the end."""
    return "\n".join(textwrap.wrap(text.replace(";", "; "), 48, break_on_hyphens=False))


def _space(name: str, shape: str | None, classes: int | None) -> Any:
    """A space for one's own images, by default for those that it was made for.

    Raises: ConfigError for a shape that is not three positive numbers.
    """
    from cosearch.errors import ConfigError
    from search_spaces.networks import find

    asked: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if shape is not None:
        parts = shape.split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
            raise ConfigError(f"--input-shape {shape!r}: expected channels,height,width, such as 3,224,224")
        asked["input_shape"] = tuple(int(part) for part in parts)
    return find(name)(**asked)


def _measured(path: Path, space: Any, target: str) -> "Measurements":
    """A table of networks; a line tells of repeats that disagree.

    Raises: DataError naming the line, as `read_table` does.
    """
    from cosearch.costs import read_table
    from predictors.arch import repeats

    found = read_table(path, space, target, costs=target != "accuracy")
    values = found.values[target]
    apart = [float(values[rows].max() - values[rows].min()) / float(values[rows].mean())
             for rows in repeats(found.archs).values() if values[rows].any()]  # fmt: skip
    many = [part for part in apart if part > DISAGREE]
    if many:
        typer.echo(
            f"{path}: {len(many)} networks are measured more than once with values that differ by up to "
            f"{max(many):.0%} of their mean, which is used: check these lines.",
            err=True,
        )
    return found


def _open(file: str) -> tuple[Any, dict[str, Any]]:
    """Raises: DataError for a file that holds no predictor of networks."""
    from cosearch.errors import DataError
    from predictors.arch import ArchPredictor
    from predictors.storage import load_with_card

    model, card = load_with_card(file)
    if not isinstance(model, ArchPredictor):
        raise DataError(
            f"{file} holds a {card['model']} predictor, which is not bound to a space: expected one by train"
        )
    return model, card


def _report(fitted: "ArchPredictor", target: str) -> None:
    from cosearch.terminal import print_table

    assert fitted.chosen is not None
    if fitted.scores:
        best_first = sorted(fitted.scores.items(), key=lambda item: -item[1])
        rows = [(label, f"{score:.3f}", "<" if label == fitted.chosen.label else "") for label, score in best_first]
        print_table("Cross-validated rank correlation (Kendall)", ("model and features", "score", "used"), rows)
    typer.echo(
        f"{target} from {fitted.samples} networks by {fitted.label}: error {fitted.relative_error:.1%} "
        f"(guessing the mean: {fitted.relative_spread:.1%}), rank correlation {fitted.score:.3f}, by cross-validation."
    )
    if fitted.used:
        typer.echo(fitted.used)
    if fitted.useless:
        typer.echo(
            "No better than guessing the mean: check that each line's figure is that of its network, or measure more."
        )


def _write(fitted: "ArchPredictor", path: Path, table: Path, target: str) -> None:
    fitted.save(path, data={"table": table.name}, target=target)
    typer.echo(f"Wrote {path}; use it with: cosearch predict --device {path} --arch ...")
