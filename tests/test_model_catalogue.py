"""The catalogue of backbones: its table against timm, and the files of robust ones in the wrappers they come in."""

import dataclasses

import pytest
import timm
import torch
from torch import nn

from temper.errors import ArgumentError, ModelError
from temper.models import catalogue, fingerprint, load, save
from temper.models.catalogue import CATALOGUE, backbone, tier_of
from temper.models.heads import configured_head, is_linear

IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
ROBUST = [known.name for known in CATALOGUE.values() if known.weights.file]
# Parameters without the head in millions, of the Guide's 40, as its facts sheet measured them in timm 1.0.3 and
# transformers 4.41.2 (the same networks, other programs).
MEASURED = {
    "eva02_base": 85.8, "robust_vit_base": 85.8, "swin_base": 86.7, "vit_base_patch16_224": 85.8,
    "vit_base_patch16_clip_224": 85.8, "CLIP-convnext_base_w": 87.6, "convnext_base": 87.6,
    "robust_convnext_base": 87.6, "coatnet_2": 72.8, "deit_small": 21.7, "eva02_tiny": 5.5,
    "robust_deit_small": 21.7, "swin_tiny": 27.5, "vit_small": 21.7, "convnext_tiny": 27.8, "resnet50": 23.5,
    "robust_convnext_tiny": 27.8, "robust_resnet50": 23.5, "coatnet_0": 26.7, "deit_tiny": 5.5,
    "efficientnet-b0": 4.0, "mobilenetv3": 4.2, "regnetx_004": 4.8, "coat_tiny": 5.4, "edgenext_small": 5.3,
    "mobilevit-small": 4.9,
}  # fmt: skip
# The smallest input that one small network of each architecture takes.
SMALL = {
    "coat_tiny.in1k": 224,  # its positions are tied to this size
    "deit_tiny_patch16_224.fb_in1k": 32,
    "edgenext_small.usi_in1k": 64,
    "efficientnet-b0": 32,
    "eva02_tiny_patch14_224.mim_in22k": 28,
    "mobilenetv3_large_100.ra_in1k": 32,
    "mobilevit-small": 64,
    "regnetx_004.pycls_in1k": 32,
}


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def meta_network(known):
    with torch.device("meta"):
        return timm.create_model(known.source.removeprefix("timm:"), pretrained=False, num_classes=10)


# --- the table ------------------------------------------------------------------------------------


def test_the_table_has_the_backbones_of_both_studies():
    guide = [known for known in CATALOGUE.values() if known.size.tier_published]
    assert (len(guide), len(CATALOGUE)) == (40, 44)
    assert list(CATALOGUE)[-4:] == ["RobViT", "RobSWIN", "RobCNX", "RobR50"]

    def counts(values):
        return {value: values.count(value) for value in values}

    # Section 2 of the Guide's facts sheet, counted from its published results.
    assert counts([known.type for known in guide]) == {"attention": 18, "convolution": 16, "hybrid": 6}
    assert counts([known.size.tier_published for known in guide]) == {"large": 18, "medium": 15, "small": 7}
    assert counts([known.weights.pretraining for known in guide]) == {
        "supervised": 20, "supervised (multistep)": 6, "supervised (robust)": 5, "self-supervised": 4,
        "self-supervised (multimodal)": 3, "fusion": 2,
    }  # fmt: skip
    # The rule moves the one backbone whose size was published wrongly, and no other.
    moved = [known.name for known in guide if known.size.tier != known.size.tier_published]
    assert moved == ["eva02_tiny_patch14_224.mim_in22k"]
    assert all(known.size.tier == tier_of(known.size.parameters) for known in CATALOGUE.values())
    assert [tier_of(count) for count in (19_999_999, 20_000_000, 49_999_999, 50_000_000)] == [
        "small", "medium", "medium", "large",
    ]  # fmt: skip


def test_the_table_agrees_with_published_results(shared_data):
    pandas = pytest.importorskip("pandas")
    table = shared_data.parent / "papers" / "guide_results.csv"
    if not table.is_file():
        pytest.skip("needs the developers' shared/papers folder beside the repository")
    published = pandas.read_csv(table).drop_duplicates("backbone").set_index("backbone")
    guide = {name: known for name, known in CATALOGUE.items() if known.size.tier_published}
    assert set(guide) == set(published.index)
    types = {"attention": "fully attention", "convolution": "fully convolutional", "hybrid": "hybrid"}
    for name, known in guide.items():
        row = published.loc[name]
        assert row["model_type"] == types[known.type], name
        assert row["model_size"] == known.size.tier_published, name
        assert row["pre_training_strategy"] == known.weights.pretraining, name
        assert row["pre_training_dataset"] == known.weights.pretraining_data, name


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_backbone_is_timms_with_these_parameters_and_one_linear_head(name):
    known = CATALOGUE[name]
    network = meta_network(known)
    head = configured_head(network)
    assert len(head) == 1
    layer = network.get_submodule(head[0])
    assert is_linear(layer)
    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 10
    total, in_head = (sum(parameter.numel() for parameter in module.parameters()) for module in (network, layer))
    assert total - in_head == known.size.parameters
    if known.size.tier_published:
        prefix = max((prefix for prefix in MEASURED if name.startswith(prefix)), key=len)
        assert known.size.parameters / 1e6 == pytest.approx(MEASURED[prefix], abs=0.1)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in ROBUST])
def test_what_timm_fetches_has_published_weights_and_a_licence(name):
    config = timm.get_pretrained_cfg(CATALOGUE[name].source.removeprefix("timm:"))
    assert config.has_weights
    assert config.tag
    assert config.license == CATALOGUE[name].weights.licence


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_small_backbones_run_with_timms_normalisation(name):
    size = SMALL[name]
    classifier = load(name, weights="none", num_classes=7, image_size=size)
    config = timm.get_pretrained_cfg(CATALOGUE[name].source.removeprefix("timm:"))
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor(config.mean))
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor(config.std))
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        logits = classifier(images)
        again = classifier.network(
            (images - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
        )
    assert logits.shape == (1, 7)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, again)
    assert classifier.info["catalogue"] == name
    assert classifier.info["loaded"] == 0.0


def test_published_normalisation_is_not_taken_for_timms():
    """The Guide normalised these with ImageNet's numbers; their weights were trained with others."""
    for name, mean in (("vit_small_patch16_224.augreg_in1k", 0.5), ("coatnet_0_rw_224.sw_in1k", 0.5)):
        assert timm.get_pretrained_cfg(CATALOGUE[name].source.removeprefix("timm:")).mean == (mean,) * 3


# --- names ----------------------------------------------------------------------------------------


def test_names():
    assert backbone("RobCNX") is CATALOGUE["RobCNX"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        backbone("RobCNX").tier = "small"
    with pytest.raises(ArgumentError, match=r"backbone = 'robcnxt': .* did you mean RobCNX") as error:
        backbone("robcnxt")
    one_line(error)
    with pytest.raises(ArgumentError, match="CATALOGUE lists the names"):
        backbone("qqqq")
    with pytest.raises(ArgumentError, match=r"NAME\[@weights-file\].*; did you mean robust_convnext_tiny") as error:
        load("robust_convnext_tinny")
    assert one_line(error).startswith(
        "model = 'robust_convnext_tinny': must be a run folder that exists, bundled, timm:"
    )
    with pytest.raises(ArgumentError, match="did you mean robust_convnext_tiny"):
        load("robust_convnext_tinny@file.pt")


def test_a_folder_keeps_its_meaning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(load("bundled", num_classes=3), tmp_path / "RobR50")
    save(load("bundled", num_classes=4), tmp_path / "RobR50@4")
    assert load("RobR50").num_classes == 3
    assert load("RobR50@4").num_classes == 4


def test_a_run_that_was_saved_says_where_it_began(tmp_path):
    name = "deit_tiny_patch16_224.fb_in1k"
    original = load(name, weights="none", num_classes=3, image_size=32)
    save(original, tmp_path)
    restored = load(tmp_path)
    assert fingerprint(restored) == fingerprint(original)
    assert restored.info["catalogue"] == name


# --- pretrained weights ---------------------------------------------------------------------------


@pytest.fixture
def timm_file(tmp_path):
    """A function that saves weights and gives the arguments with which timm takes them for its own."""

    def give(tensors):
        torch.save(tensors, tmp_path / "own.pth")
        return {"depth": 1, "pretrained_cfg_overlay": {"file": str(tmp_path / "own.pth")}}

    return give


def state_of(source, **arguments):
    return timm.create_model(source.removeprefix("timm:"), pretrained=False, **arguments).state_dict()


def test_the_share_that_was_loaded(timm_file):
    name = "deit_tiny_patch16_224.fb_in1k"
    state = state_of(CATALOGUE[name].source, depth=1)
    kept = load(name, model_args=timm_file(state))
    assert (kept.info["loaded"], kept.info["head"]) == (1.0, "kept")
    fresh = load(name, model_args=timm_file(state), num_classes=5)
    total = sum(parameter.numel() for parameter in fresh.parameters())
    assert fresh.info["head"] == "fresh"
    assert fresh.info["loaded"] == pytest.approx(1 - 5 * 193 / total)
    assert load("bundled").info["loaded"] == 1.0
    assert load("bundled", weights="none").info["loaded"] == 0.0


def test_weights_without_a_head_are_taken_strictly(timm_file):
    name = "vit_small_patch16_224.dino"
    state = state_of(CATALOGUE[name].source, depth=1, num_classes=0)
    classifier = load(name, model_args=timm_file(state), num_classes=5)
    total = sum(parameter.numel() for parameter in classifier.parameters())
    assert (classifier.num_classes, classifier.info["head"]) == (5, "fresh")
    assert classifier.info["loaded"] == pytest.approx(1 - 5 * 385 / total)
    torch.testing.assert_close(classifier.network.pos_embed.data, state["pos_embed"])
    del state["blocks.0.mlp.fc1.weight"]
    with pytest.raises(ModelError, match=r"weights do not fit .*blocks.0.mlp.fc1.weight") as error:
        load(name, model_args=timm_file(state), num_classes=5)
    one_line(error)


# --- files of robust networks ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ROBUST)
def test_a_robust_backbone_says_where_its_file_is(name):
    with pytest.raises(ModelError) as error:
        load(name)
    message = one_line(error)
    for part in (name, CATALOGUE[name].weights.file, "github.com/", f"use {name}@{CATALOGUE[name].weights.file}"):
        assert part in message


MEAN, STD = (values.view(1, 3, 1, 1) for values in IMAGENET)


def plain(state):
    return state


def revisiting_at(state):
    """As AA_eval.py of nmndeep/revisiting-at takes them apart: module., base_model., normalize and model."""
    named = {"normalize.mean": MEAN, "normalize.std": STD} | {f"model.{name}": value for name, value in state.items()}
    return {f"module.base_model.{name}": value for name, value in named.items()}


def base_model_only(state):
    return {f"base_model.{name}": value for name, value in state.items()}


def sequential(state):
    """thu-ml/ares: Sequential(normaliser, network)."""
    return {"0.mean": MEAN, "0.std": STD} | {f"1.{name}": value for name, value in state.items()}


def madry(state):
    """MadryLab/robustness, attacker.py: a network, its normaliser, and an attacker that holds both again."""
    mean, std = IMAGENET[0].view(3, 1, 1), IMAGENET[1].view(3, 1, 1)
    named = {"normalizer.new_mean": mean, "normalizer.new_std": std}
    named |= {f"model.{name}": value for name, value in state.items()}
    named |= {"attacker.normalize.new_mean": mean, "attacker.normalize.new_std": std}
    named |= {f"attacker.model.{name}": value for name, value in state.items()}
    return {"model": {f"module.{name}": value for name, value in named.items()}, "epoch": 90, "best_prec1": 0.6}


LAYERS = {"layers": (1, 1, 1, 1)}
DEPTHS = {"depths": (1, 1, 1, 1)}
# A shallow variant of each robust architecture, so that a file of it is quickly made.
SHALLOW = {
    "robust_vit_base_patch16_224": {"depth": 1},
    "robust_convnext_base": DEPTHS,
    "robust_deit_small_patch16_224": {"depth": 1},
    "robust_convnext_tiny": DEPTHS,
    "robust_resnet50": LAYERS,
    "RobViT": {"depth": 1},
    "RobSWIN": DEPTHS,
    "RobCNX": DEPTHS,
    "RobR50": LAYERS,
}
WRAPPERS = [
    *[(name, revisiting_at) for name in list(SHALLOW)[:4]],
    ("robust_convnext_tiny", base_model_only),
    ("robust_resnet50", madry),
    *[(name, plain) for name in list(SHALLOW)[5:]],
    ("RobR50", sequential),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrapper"), WRAPPERS, ids=[f"{name}-{wrap.__name__}" for name, wrap in WRAPPERS])
def test_a_whole_file_gives_the_same_logits(tmp_path, name, wrapper):
    original = timm.create_model(CATALOGUE[name].source.removeprefix("timm:"), pretrained=False, **SHALLOW[name]).eval()
    torch.save(wrapper(original.state_dict()), tmp_path / "file.pt")
    classifier = load(f"{name}@{tmp_path / 'file.pt'}", model_args=SHALLOW[name])
    assert (classifier.info["loaded"], classifier.info["head"], classifier.info["catalogue"]) == (1.0, "kept", name)
    torch.testing.assert_close(classifier.mean.flatten(), IMAGENET[0])
    torch.testing.assert_close(classifier.std.flatten(), IMAGENET[1])
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), original((images - MEAN) / STD))


@pytest.mark.slow
def test_names_of_older_swin_transformers(tmp_path):
    """timm before 0.9, which ARES used: downsampling at the end of a stage, head without fc, saved constants."""
    original = timm.create_model("swin_base_patch4_window7_224", pretrained=False, **DEPTHS).eval()
    older = {
        name.replace("head.fc.", "head.")
        .replace("layers.1.downsample", "layers.0.downsample")
        .replace("layers.2.downsample", "layers.1.downsample")
        .replace("layers.3.downsample", "layers.2.downsample"): value
        for name, value in original.state_dict().items()
    }
    older["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    torch.save(older, tmp_path / "file.pt")
    classifier = load("RobSWIN", weights=tmp_path / "file.pt", model_args=DEPTHS)
    assert classifier.info["loaded"] == 1.0
    for name, value in original.state_dict().items():
        assert torch.equal(classifier.network.state_dict()[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("stages.0.blocks.0.mlp.fc1.weight"), "missing: stages.0.blocks.0.mlp.fc1.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "unexpected: extra"),
        (lambda state: state.update({"stem.0.weight": torch.ones(96, 3, 2, 2)}), r"wrong shape: stem.0.weight \(96"),
    ],
)
@pytest.mark.parametrize("wrapper", [revisiting_at, madry, plain])
def test_a_file_must_fit_whole(tmp_path, change, message, wrapper):
    state = state_of("convnext_tiny", **DEPTHS)
    change(state)
    torch.save(wrapper(state), tmp_path / "file.pt")
    with pytest.raises(ModelError, match=message) as error:
        load("robust_convnext_tiny", weights=tmp_path / "file.pt", model_args=DEPTHS, num_classes=5)
    assert "file.pt" in one_line(error)


def test_another_normalisation_is_refused(tmp_path):
    state = state_of("convnext_tiny", **DEPTHS)
    wrapped = revisiting_at(state) | {"module.base_model.normalize.mean": torch.full((1, 3, 1, 1), 0.5)}
    torch.save(wrapped, tmp_path / "file.pt")
    with pytest.raises(ModelError, match=r"normalises with normalize.mean = \[0.5, 0.5, 0.5\], not") as error:
        load("robust_convnext_tiny", weights=tmp_path / "file.pt", model_args=DEPTHS)
    one_line(error)
    # A wrapper is opened only where the catalogue says how the network inside normalises.
    with pytest.raises(ModelError, match=r"does not fit the network .*unexpected: module.base_model.normalize"):
        load("timm:convnext_tiny", weights=tmp_path / "file.pt", model_args=DEPTHS, num_classes=5)


class Schedule:
    """What training programs leave in their checkpoints."""


def test_python_objects_are_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = madry(state_of("resnet50", **LAYERS)) | {"schedule": Schedule()}
    torch.save(checkpoint, "linf.pt")
    with pytest.raises(ModelError, match="where you trust it") as error:
        load("robust_resnet50@linf.pt", model_args=LAYERS)
    snippet = one_line(error).partition("installed: ")[2]
    exec(snippet, {})  # the message's own advice
    assert load("robust_resnet50@linf-tensors.pt", model_args=LAYERS).info["loaded"] == 1.0


def test_random_weights_must_be_asked_for():
    classifier = load("RobR50", weights="none", model_args=LAYERS)
    assert classifier.info["loaded"] == 0.0
    torch.testing.assert_close(classifier.mean.flatten(), IMAGENET[0])
    assert load("robust_vit_base_patch16_224", weights="none", model_args={"depth": 1}).mean.flatten()[0] != 0.5
    grey = load("RobR50", weights="none", model_args=LAYERS | {"in_chans": 1})
    assert grey.channels == 1


def test_the_table_is_read_when_asked_for():
    catalogue._rows.cache_clear()
    assert catalogue._rows.cache_info().misses == 0
    assert "RobR50" in CATALOGUE
    assert catalogue._rows.cache_info().misses == 1
