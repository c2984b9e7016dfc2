import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing
import yaml
from hypothesis import given
from hypothesis import strategies as st

import cosearch.engine
from cosearch.cli import app
from cosearch.config import RunConfig, read_yaml
from cosearch.errors import ConfigError

# one value for each option, none of them the default: text on the command line -> value of the field
GIVEN = {
    "space": ("other:space", "other:space"),
    "device": ("zcu102", "zcu102"),
    "data": ("cifar10", "cifar10"),
    "data_dir": ("some/folder", Path("some/folder")),
    "accuracy": ("table", "table"),
    "accuracy_table": ("table.csv", Path("table.csv")),
    "objectives": ("accuracy, energy_mj", ("accuracy", "energy_mj")),
    "max_latency_ms": ("1.5", 1.5),
    "max_energy_mj": ("0.25", 0.25),
    "max_area_mm2": ("3", 3.0),
    "min_accuracy": ("0.9", 0.9),
    "recommend": ("knee", "knee"),
    "constraint": ("dsp<=100, throughput_fps >= 30", ("dsp<=100", "throughput_fps >= 30")),
    "accounting": ("operator", "operator"),
    "strategy": ("random", "random"),
    "trials": ("17", 17),
    "minutes": ("2.5", 2.5),
    "baselines": (False, False),
    "supernet_epochs": ("5", 5),
    "finalist_epochs": ("6", 6),
    "finalist_seeds": ("2", 2),
    "finalist_start": ("supernet", "supernet"),
    "finalist_simulated_epochs": ("3", 3),
    "finalist_candidates": ("4", 4),
    "distil": (True, True),
    "seed": ("9", 9),
    "threads": ("1", 1),
    "torch_device": ("cpu", "cpu"),
    "precision": ("bf16", "bf16"),
    "out": ("there", Path("there")),
    "quiet": (True, True),
    "recipe": ("sandwich", "sandwich"),
    "sharing": ("heterogeneous", "heterogeneous"),
    "kernels": ("transform", "transform"),
    "guided": (True, True),
    "batch": ("8", 8),
    "ray": ("ray://head:10001", "ray://head:10001"),
    "ray_order": ("async", "async"),
    "ray_cpus": ("0.5", 0.5),
    "ray_gpus": ("0.25", 0.25),
}


def arguments(names) -> list[str]:
    found = []
    for name in names:
        text, flag = GIVEN[name][0], name.replace("_", "-")
        found += [f"--{flag}" if text else f"--no-{flag}"] if isinstance(text, bool) else [f"--{flag}", text]
    return found


@pytest.fixture
def seen(monkeypatch) -> list[RunConfig]:
    """The configurations that reach the engine, which does nothing with them."""
    found: list[RunConfig] = []

    def stop(config: RunConfig) -> None:
        found.append(config)
        raise ConfigError("stop here")

    monkeypatch.setattr(cosearch.engine, "run", stop)
    return found


def command(*args: str) -> None:
    with pytest.raises(ConfigError, match="stop here"):
        typer.testing.CliRunner().invoke(app, ["run", *args], catch_exceptions=False)


def test_every_option_has_a_value_to_test_with():
    assert set(GIVEN) == set(RunConfig.model_fields)
    for name, (_, value) in GIVEN.items():
        assert value != RunConfig.model_fields[name].default


def test_command_line_yaml_and_python_make_the_same_configuration(seen, tmp_path):
    python = RunConfig.make({name: value for name, (_, value) in GIVEN.items()})
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({name: text for name, (text, _) in GIVEN.items()} | {"trials": 17, "minutes": 2.5}))
    command(*arguments(GIVEN))
    command("--config", str(file))
    assert seen == [python, python]
    for name, (_, value) in GIVEN.items():
        assert getattr(python, name) == value, name


def test_no_option_is_all_defaults(seen):
    command()
    assert seen == [RunConfig()]


def test_the_command_line_goes_before_the_file(seen, tmp_path):
    (tmp_path / "run.yaml").write_text("trials: 50\nseed: 4\nbaselines: false\n")
    command("--config", str(tmp_path / "run.yaml"), "--trials", "60", "--baselines")
    assert seen == [RunConfig(trials=60, seed=4, baselines=True)]


def test_help_names_every_field_with_its_default():
    text = typer.testing.CliRunner(env={"COLUMNS": "200"}).invoke(app, ["run", "--help"]).output
    plain = re.sub(r"\x1b\[[0-9;]*m|[│\s]", "", text)  # the box is as narrow as the terminal: words are cut anywhere
    for name, field in RunConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in plain, name
        assert field.description
        assert re.sub(r"\s", "", field.description)[:40] in plain, name
        if field.default not in (None, ()) and not isinstance(field.default, bool):
            shown = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
            assert f"[default:({shown})]" in plain, name


def test_the_command_has_no_option_that_is_no_field():
    import inspect

    from cosearch.cli import _run

    assert set(inspect.signature(_run).parameters) == {*RunConfig.model_fields, "config", "as_json"}


@pytest.mark.parametrize(
    ("key", "hint"),
    [("trails", "trials"), ("max-latency-ms", "max_latency_ms"), ("objective", "objectives"), (17, "known: ")],
)
def test_an_unknown_key_names_the_nearest(tmp_path, key, hint):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({key: 1}))
    with pytest.raises(ConfigError, match=hint):
        RunConfig.make(read_yaml(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 0),
        ("trials", 10_000_001),
        ("trials", "many"),
        ("trials", 1.5),
        ("max_latency_ms", 0),
        ("max_energy_mj", -1),
        ("max_area_mm2", float("nan")),
        ("max_area_mm2", "1e999"),
        ("max_latency_ms", float("inf")),
        ("minutes", float("inf")),
        ("ray_gpus", float("inf")),
        ("min_accuracy", 1.01),
        ("min_accuracy", -0.1),
        ("min_accuracy", float("nan")),
        ("accuracy", "guess"),
        ("accounting", "elements"),
        ("torch_device", "tpu"),
        ("precision", "fp16"),
        ("seed", -1),
        ("seed", 2**63),
        ("threads", 0),
        ("threads", 1025),
        ("minutes", 0),
        ("supernet_epochs", 0),
        ("finalist_epochs", 0),
        ("finalist_seeds", 0),
        ("space", ["shiftadd"]),
        ("data_dir", 5),
        ("quiet", "perhaps"),
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_the_option(name, value):
    with pytest.raises(ConfigError, match=f"^{name}") as caught:
        RunConfig.make({name: value})
    assert "\n" not in str(caught.value)


def test_a_huge_value_is_not_printed_in_full(tmp_path):
    # aliases in YAML can stand for more text than there are atoms
    nested = "[x, x, x, x, x, x, x, x, x, x]"
    for i in range(5):  # 10^6 words here; two more lines would hang a program that prints them
        nested = f"[&n{i} {nested}{f', *n{i}' * 9}]"
    (tmp_path / "bomb.yaml").write_text(f"space: {nested}\n")
    with pytest.raises(ConfigError, match=r"^space") as caught:
        RunConfig.make(read_yaml(tmp_path / "bomb.yaml"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a: [", "not valid YAML"),
        ("- 1\n- 2\n", "holds a list"),
        ("just text", "holds a str"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("a: " + "[" * 300_000, "nested deeper than 32 levels"),
        ("x" * (2**20 + 1), "at most 1,048,576 are read"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, match):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ConfigError, match=match) as caught:
        read_yaml(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)


def test_missing_binary_and_empty_files(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


@given(st.sets(st.sampled_from(sorted(GIVEN))))
def test_a_saved_configuration_reads_back_equal(names):
    config = RunConfig.make({name: GIVEN[name][1] for name in names})
    assert RunConfig.make(yaml.safe_load(config.to_yaml())) == config


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().trials = 5  # type: ignore[misc]


# -- imports --

PACKAGES = ("cosearch", "search_spaces", "predictors", "hwbench_data")
SLOW = ("torch", "sklearn", "pandas", "optuna")


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(out.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import cosearch",
        "import cosearch.workload, cosearch.macro, cosearch.config, cosearch.hardware",
        "import search_spaces.networks.shiftadd as s; a = s.space(); a.layer_table(); a.workload(a.largest())",
        "import search_spaces.accelerators.fpga as f; f.space('ecp5-85f')",
        "import predictors, hwbench_data, cosearch.operators",
        "import cosearch.strategies.evolutionary, cosearch.strategies.random",
        "import sys; sys.argv = ['cosearch', '--help']\nimport cosearch.cli\n"
        "try: cosearch.cli.main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['cosearch', 'run', '--help']\nimport cosearch.cli\n"
        "try: cosearch.cli.main()\nexcept SystemExit: pass",
    ],
)
def test_descriptions_and_help_load_nothing_slow(code):
    assert not modules_after(code) & set(SLOW)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_imports_first_in_a_fresh_interpreter(package):
    assert package in modules_after(f"import {package}")
    deep = {
        "cosearch": "cosearch.engine",
        "search_spaces": "search_spaces.networks.shiftadd",
        "predictors": "predictors.additive",
        "hwbench_data": "hwbench_data",
    }[package]
    assert deep in modules_after(f"import {deep}")


def test_lazy_names_of_the_package():
    import cosearch

    assert cosearch.run.__module__ == cosearch.resume.__module__ == "cosearch.engine"
    assert cosearch.load.__module__ == cosearch.load_network.__module__ == "cosearch.loading"
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        _ = cosearch.walk


def test_constraints_on_anything_join_the_three_named_limits(seen):
    command("--constraint", "dsp<=100", "--constraint", "throughput_fps >= 30", "--max-latency-ms", "2")
    [config] = seen
    assert config.constraints == {"max_latency_ms": 2.0, "max_dsp": 100.0, "min_throughput_fps": 30.0}
    tighter = RunConfig.make({"max_latency_ms": 2, "constraint": "latency_ms<=1.5,accuracy>=0.9", "min_accuracy": 0.8})
    assert tighter.constraints == {"max_latency_ms": 1.5}
    assert tighter.least_accuracy == 0.9


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("dsp<100", "expected NAME<=VALUE"),
        ("dps<=100", "unknown constraint 'max_dps'"),
        ("dsp<=many", "'many' is no number"),
        ("accuracy<=0.9", "no upper limit"),
        ("dsp<=inf", "expected a finite number"),
        ("throughput_fps>=nan", "expected a finite number"),
        ("<=3", "unknown constraint"),
    ],
)
def test_constraints_that_are_none(text, match):
    with pytest.raises(ConfigError, match=match) as caught:
        _ = RunConfig.make({"constraint": text}).constraints
    assert "\n" not in str(caught.value)
