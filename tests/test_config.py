"""The configuration: YAML there and back, and one line that says what is wrong."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from temper.errors import ArgumentError, TemperError
from temper.threat import Threat
from temper.training import yaml_files
from temper.training.config import FinetuneConfig, completed, config_error, read_config, write_config
from temper.training.objectives import OBJECTIVES
from temper.training.yaml_files import read_yaml

*MOST, LAST = map(repr, OBJECTIVES)

FULL = {
    "out": "runs/x",
    "model": {
        "name": "timm:mobilenetv2_100@weights.safetensors",
        "weights": None,
        "args": {"pad_type": "same", "drop_rate": 0.1, "scriptable": True, "stem": 3},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5],
        "image_size": 64,
    },
    "data": {"train": "images.zip", "classes": 20, "train_limit": 100, "augmentation": "crop"},
    "norm": "L2",
    "eps": "128/255",
    "objective": {"name": "trades", "beta": 3},
    "schedule": {"name": "hinge", "start": 0.1, "end": 0.9, "per": "epoch"},
    "attack": {"name": "pgd", "steps": 5, "step_size": 0.3, "random_start": True},
    "protocol": {"name": "linear-then-full", "linear_share": 0.5},
    "optimiser": {"backbone_lr": "1e-3", "betas": [0.9, 0.95], "ema": 0.99, "clip_norm": 1},
    "evaluation": {"points": 4},
    "epochs": 3,
    "micro_batch": 16,
    "precision": "bf16",
    "loggers": ["tensorboard"],
}


def message_of(source: Any) -> str:
    """What is said about a configuration that cannot work: one line."""
    with pytest.raises(ArgumentError) as error:
        read_config(source)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", [{}, FULL, {"eps": 1e-5, "seed": 2**40}, {"norm": "Linf,L1", "eps": "4/255,12"}])
def test_yaml_there_and_back(tmp_path, content):
    config = read_config(content)
    path = tmp_path / "run.yaml"
    write_config(config, path)
    assert read_config(path) == read_config(str(path)) == config
    # Everything is written out, also what was left to its default, but for what came later and is not used.
    later = {name for name, field in FinetuneConfig.model_fields.items() if field.exclude_if}
    assert set(FinetuneConfig.model_fields) - later <= set(yaml.safe_load(path.read_text()))


def test_defaults_are_a_configuration():
    assert read_config({}) == FinetuneConfig()
    config = FinetuneConfig(epochs=3)
    assert read_config(config) is config


@pytest.mark.parametrize("eps", ["8/255", 8 / 255, " 8 / 255 "])
def test_epsilon_reads_fractions(tmp_path, eps):
    assert read_config({"eps": eps}).eps == 8 / 255
    path = tmp_path / "run.yaml"
    path.write_text(f"eps: {eps}\n")
    assert read_config(path).eps == 8 / 255


def test_numbers_as_yaml_reads_them():
    """YAML takes 1e-3 for a string."""
    assert read_config({"optimiser": {"head_lr": "1e-3"}}).optimiser.head_lr == 1e-3


@pytest.mark.parametrize(
    ("content", "start", "hint"),
    [
        ({"epoch": 3}, "epoch = 3: unknown key", "did you mean epochs?"),
        ({"optimizer": {}}, "optimizer = {}: unknown key", "did you mean optimiser?"),
        ({"optimiser": {"lr_schedul": "cosine"}}, "optimiser.lr_schedul", "did you mean optimiser.lr_schedule?"),
        ({"schedule": {"T1": 3}}, "schedule.T1 = 3: unknown key", "known: name, start, end, patience"),
        ({"attack": {"step": 3}}, "attack.step = 3: unknown key", "did you mean attack.steps?"),
        ({"zzz": 1}, "zzz = 1: unknown key", "known: out, model, data"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(content, start, hint):
    message = message_of(content)
    assert message.startswith(start)
    assert hint in message


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ({"eps": "8/0"}, "eps = '8/0': write a number of at least 0"),
        ({"eps": -1}, "eps = -1: write a number of at least 0"),
        ({"eps": None}, "eps = None: write a number"),
        ({"norm": "L7"}, "norm = 'L7': choose one of Linf, L2, L1"),
        ({"epochs": 0}, "epochs = 0: give at least 1"),
        ({"epochs": "many"}, "epochs = 'many'"),
        ({"batch_size": 1}, "batch_size = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"optimiser": {"backbone_lr": 0}}, "optimiser.backbone_lr = 0"),
        ({"optimiser": {"ema": 1}}, "optimiser.ema = 1"),
        ({"optimiser": {"swa": 1}}, "optimiser.swa = 1: give less than 1"),
        ({"optimiser": {"awp_warmup": 0.1}}, "optimiser.awp_warmup = 0.1: is of awp"),
        ({"objective": {"name": "standard"}, "optimiser": {"awp": 0.01}}, "optimiser.awp = 0.01: objective standard"),
        ({"optimiser": {"ema": 0.9, "swa": 0.5}}, "optimiser.swa = 0.5: is another average than ema"),
        ({"optimiser": {"warmup": 1}}, "optimiser.warmup = 1"),
        ({"data": {"validation_fraction": 1}}, "data.validation_fraction = 1"),
        ({"data": {"classes": 1}}, "data.classes = 1: give at least 2"),
        (
            {"objective": {"name": "trade"}},
            f"objective.name = 'trade': choose {', '.join(MOST)} or {LAST}",
        ),
        ({"objective": {"name": "mart", "beta": -1}}, "objective.beta = -1"),
        ({"optimiser": {"label_smoothing": 1}}, "optimiser.label_smoothing = 1"),
        ({"attack": {"steps": 0}}, "attack.steps = 0"),
        ({"attack": 3}, "attack = 3"),
        ({"loggers": ["wand"]}, "loggers.0 = 'wand'"),
        ({"schedule": {"start": float("nan")}}, "schedule.start = nan"),
    ],
)
def test_a_value_that_cannot_work_is_named(content, start):
    assert message_of(content).startswith(start)


def test_options_that_came_later_change_no_configuration_of_before():
    """Names of benchmark runs are hashes of what is written: these two stood before there was any such option."""
    older = read_config({"objective": {"name": "trades"}, "norm": "L2", "eps": 0.5, "optimiser": {"ema": 0.9}})
    configs = [completed(each) for each in (FinetuneConfig(), older)]
    written = [each.model_dump(mode="json", exclude={"out"}) for each in configs]
    hashes = [hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()[:16] for each in written]
    assert hashes == ["f5c1ef011ce80e0c", "69de8eb3090ac515"]


NUMBERS = {
    "eps": {},
    "objective.beta": {"objective": {"name": "trades"}},
    "attack.step_size": {"attack": {"name": "pgd"}},
    "schedule.tolerance": {"schedule": {"name": "auto"}},
    "optimiser.backbone_lr": {},
    "optimiser.head_weight_decay": {},
    "optimiser.label_smoothing": {},
    "optimiser.ema": {},
    "optimiser.warmup": {},
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e38, 1e39, 1e308])
@pytest.mark.parametrize("key", [*NUMBERS, "optimiser.clip_norm"])
def test_a_number_that_training_cannot_bear_is_refused_by_name(key, value):
    if key == "optimiser.clip_norm" and value > 1:
        return  # gradients are then left as they are
    section, _, name = key.rpartition(".")
    content = dict(NUMBERS.get(key, {}))
    content |= {section: content.get(section, {}) | {name: value}} if section else {name: value}
    assert message_of(content).startswith(f"{key} = ")


@pytest.mark.parametrize("value", [1e-40, 5e-324])
@pytest.mark.parametrize("key", ["eps", "attack.step_size", "optimiser.clip_norm"])
def test_a_number_with_which_nothing_would_move_is_refused_by_name(key, value):
    test_a_number_that_training_cannot_bear_is_refused_by_name(key, value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"eps": 0}, "eps = 0.0: choose objective.name standard"),
        ({"norm": "Linf,L1"}, "eps = 0.03137254901960784: give one for each norm of Linf,L1"),
        ({"norm": "Linf,L1", "eps": "4,12"}, "eps = 4.0: is beyond the pixel box [0, 1]; did you mean 4/255?"),
        ({"norm": "Linf,L1", "eps": "4/255,0"}, "eps = (0.01568627450980392, 0.0): choose objective.name standard"),
        ({"norm": "Linf,linf", "eps": "4/255,1"}, "norm = 'Linf,linf': names a norm twice"),
        ({"attack": {"union": "max"}}, "attack.union = 'max': is for several norms"),
        ({"eps": 8}, "eps = 8.0: is beyond the pixel box [0, 1]; did you mean 8/255?"),
        ({"batch_size": 2, "devices": 2}, "batch_size = 2: leaves less than 2 samples for each of 2 devices"),
        (
            {"attack": {"name": "apgd", "step_size": 0.1}},
            "attack.step_size = 0.1: attack apgd chooses its own",
        ),
        ({"attack": {"step_size": 0.1}}, "attack.step_size = 0.1: attack apgd chooses its own"),
        ({"objective": {"beta": 2.0}}, "objective.beta = 2.0: objective at has no beta; leave it out"),
        (
            {"objective": {"name": "standard", "beta": 0}},
            "objective.beta = 0.0: objective standard has no beta",
        ),
        (
            {"objective": {"name": "mart"}, "optimiser": {"label_smoothing": 0.1}},
            "optimiser.label_smoothing = 0.1: objective mart has no label_smoothing; leave it out",
        ),
        (
            {"objective": {"name": "trades"}, "attack": {"random_start": False}},
            "attack.random_start = False: objective trades needs attack.random_start",
        ),
        ({"schedule": {"name": "fixed", "start": 0.5}}, "schedule.start = 0.5: schedule fixed has no option start"),
        ({"schedule": {"name": "linear", "start": 0.5}}, "schedule.start = 0.5: schedule linear has no option start"),
        ({"schedule": {"name": "abrupt", "end": 0.5}}, "schedule.end = 0.5: schedule abrupt has no option end"),
        (
            {"schedule": {"name": "hinge", "patience": 5}},
            "schedule.patience = 5: schedule hinge has no option",
        ),
        (
            {"schedule": {"name": "uniform", "function": "a:b"}},
            "schedule.function = 'a:b': schedule uniform has no option",
        ),
        ({"schedule": {"name": "custom"}}, "schedule.function = None: schedule custom needs function"),
    ],
)
def test_options_that_contradict_each_other_are_refused(content, said):
    assert message_of(content).startswith(said)


@pytest.mark.parametrize(
    "content",
    [
        {"eps": 0, "objective": {"name": "standard"}},
        {"objective": {"name": "trades-guide"}, "attack": {"random_start": False}},
        {"objective": {"name": "mart", "beta": 0}, "optimiser": {"label_smoothing": 0}},
        {"objective": {"name": "trades"}, "optimiser": {"label_smoothing": 0.1}},
        {"attack": {"name": "pgd", "step_size": 0.1}},
        {"schedule": {"name": "auto", "patience": 3, "tolerance": 0.0}},
        {"schedule": {"name": "custom", "function": "module:function"}},
        {"schedule": {"name": "hinge", "start": 0, "end": 0}},
    ],
)
def test_options_that_go_together_are_accepted(content):
    assert isinstance(read_config(content), FinetuneConfig)


def test_nothing_changes_after_reading():
    with pytest.raises(ValidationError, match="frozen"):
        read_config({}).epochs = 3


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert message_of(tmp_path / "none.yaml").endswith("cannot be read (No such file or directory); name a YAML file")
    for content, said in (("a: [", "is not YAML"), ("- 1\n- 2", "key: value"), ("8/255", "key: value")):
        path = tmp_path / "bad.yaml"
        path.write_text(content)
        message = message_of(path)
        assert str(path) in message
        assert said in message
    path.write_bytes(b"\xff\xfe\x00bad")
    assert "is not YAML" in message_of(path)


def test_a_mapping_is_not_changed():
    content = {"eps": "8/255", "model": {"name": "bundled"}}
    read_config(content)
    assert content == {"eps": "8/255", "model": {"name": "bundled"}}


def test_pydantics_own_errors_become_ours():
    with pytest.raises(ValidationError) as error:
        FinetuneConfig(epochs=0)
    assert isinstance(config_error(error.value), TemperError)


def test_paths_stay_paths():
    assert read_config({"out": "a/b"}).out == Path("a/b")


@pytest.mark.parametrize(
    "text",
    [
        "epochs: yes",
        "seed: off",
        "attack: {steps: on}",
        "eps: yes",
        "data: {test_fraction: yes}",
        "data: {classes: yes}",
    ],
)
def test_yes_and_no_are_no_numbers(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ArgumentError, match=r"= (True|False): ") as caught:
        read_config(tmp_path / "config.yaml")
    assert str(caught.value).startswith(text.split(":")[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["attack: {random_start: yes}", "model: {args: {scriptable: yes}}"])
def test_yes_and_no_are_taken_where_they_are_the_answer(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    read_config(tmp_path / "config.yaml")


def nested(levels: int, width: int = 9) -> str:
    """Lists of aliases of lists: a few hundred bytes that stand for width**levels values."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * width)}]" for k in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        nested(5),
        nested(9),
        nested(40, 2),
        "epochs: &a [*a]",
        "a: &a {b: 1}\nc: &c {<<: [" + ", ".join(["*a"] * 60_000) + "]}",
    ],
)
def test_nested_aliases_are_refused_before_they_are_written_out(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ArgumentError, match=r"c.yaml': is not YAML: its aliases stand for more than 100,000") as caught:
        read_yaml(tmp_path / "c.yaml", "SPEC")
    assert len(str(caught.value)) < 400


def test_a_yaml_file_too_large_or_too_deep_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(ArgumentError, match="nested too deeply"):
        read_yaml(tmp_path / "c.yaml")
    monkeypatch.setattr(yaml_files, "YAML_BYTES", 100)
    (tmp_path / "c.yaml").write_text("a: " + "x" * 100)
    with pytest.raises(ArgumentError, match="is larger than 100 bytes"):
        read_yaml(tmp_path / "c.yaml")


def test_a_few_aliases_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text("base: &b {steps: 3}\nattack: {<<: *b, name: pgd}\n")
    assert read_yaml(tmp_path / "c.yaml")["attack"] == {"steps": 3, "name": "pgd"}


@pytest.mark.parametrize("key", ["backbone_lr", "head_lr", "backbone_weight_decay", "head_weight_decay"])
@pytest.mark.parametrize("value", [1e31, 1e38, 1e308, float("inf"), float("nan"), -1.0])
def test_rates_that_no_float32_update_can_hold_are_refused(key, value):
    with pytest.raises(
        ArgumentError, match=rf"optimiser.{key} = .*: give (at most (1000000|1e\+30)|at least 0|more than 0|a finite)"
    ):
        read_config({"optimiser": {key: value}})


@pytest.mark.parametrize(
    "content",
    [{"norm": "linf, L1", "eps": "4/255,12"}, {"norm": ["Linf", "L1"], "eps": [4 / 255, 12]}],
)
def test_several_norms_have_an_epsilon_each(content):
    config = completed(read_config(content))
    assert config.threats == (Threat("Linf", 4 / 255), Threat("L1", 12.0))
    assert config.attack.union == "e-at"


@pytest.mark.parametrize(("preset", "schedule"), [("paper", ("hinge", 0.25, 0.75)), ("temper", ("linear", None, 0.25))])
def test_a_preset_is_a_configuration_by_its_name(preset: str, schedule: tuple[str, float | None, float]) -> None:
    config = completed(read_config(preset))
    assert (config.schedule.name, config.schedule.start, config.schedule.end) == schedule
    assert (config.attack.name, config.attack.steps) == ("apgd", 7)


def test_a_file_of_a_presets_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text("epochs: 3\n")
    assert read_config("paper").epochs == 3


def test_a_name_that_is_no_preset_is_a_missing_file() -> None:
    with pytest.raises(ArgumentError, match=r"config = 'papr': cannot be read .* name a YAML file"):
        read_config("papr")
