"""Image towers with a head of text embeddings, on small random towers: no weights can be had here."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from temper import models
from temper.cli import main as cli
from temper.deployment.exporting import export
from temper.errors import ArgumentError, ModelError
from temper.models.text_head import choose_classes, read_texts
from temper.runs.finetune import train_only
from temper.training.config import read_config
from tiny_runs import assert_same_weights, config
from zero_shot import ARGS, NAMES, TOWER, D, images, load, write_texts


@pytest.fixture(autouse=True)
def _place(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    write_texts("texts.safetensors")


@torch.no_grad()
def test_logits_are_a_scale_times_cosines():
    classifier = load()
    embeddings = load_file("texts.safetensors")["embeddings"]
    features = classifier.network.tower((images() - classifier.mean) / classifier.std)
    assert features.shape == (3, D)
    expected = 100 * torch.nn.functional.cosine_similarity(features[:, None], embeddings[None], dim=2)
    torch.testing.assert_close(classifier(images()), expected, rtol=1e-4, atol=1e-4)
    assert classifier.info["class_names"] == list(NAMES)


@torch.no_grad()
def test_the_file_may_say_the_scale_and_names_may_stand_beside_it():
    plain = load()(images())
    embeddings = load_file("texts.safetensors")["embeddings"]
    save_file({"text": embeddings, "scale": torch.tensor(7.0)}, "other.safetensors")
    Path("other.txt").write_text("\n".join(NAMES))
    other = load(f"{TOWER}+other.safetensors")
    torch.testing.assert_close(other(images()), plain * 0.07)
    assert other.info["class_names"] == list(NAMES)


def test_the_head_is_no_parameter():
    classifier = load()
    assert classifier.head_parameters() == []
    assert len(classifier.backbone_parameters()) == len(list(classifier.parameters())) > 0


@torch.no_grad()
def test_saved_and_loaded_without_the_texts():
    classifier = load()
    models.save(classifier, "saved")
    Path("texts.safetensors").unlink()
    again = models.load("saved")
    assert torch.equal(again(images()), classifier.eval()(images()))
    assert again.info["class_names"] == list(NAMES)


@torch.no_grad()
def test_weights_of_the_tower_come_from_a_file():
    save_file(load(seed=5, image_size=None).network.tower.state_dict(), "tower.safetensors")
    classifier = load(f"{TOWER}+texts.safetensors@tower.safetensors", weights=None)
    assert classifier.info["loaded"] == 1.0
    assert torch.equal(classifier(images()), load(seed=5)(images()))


@torch.no_grad()
def test_classes_are_chosen_by_their_names():
    classifier = load()
    logits = classifier(images())
    choose_classes(classifier, ("7", "2"))
    assert classifier.num_classes == 2
    assert torch.equal(classifier(images()), logits[:, [7, 2]])
    with pytest.raises(ModelError, match=r"no text for the classes cat \(of 1\)"):
        choose_classes(classifier, ("7", "cat"))


def test_wrong_calls_are_told():
    with pytest.raises(ModelError, match=r"has no classes; give text embeddings, clip:NAME\+TEXTS"):
        load(TOWER, num_classes=10)
    with pytest.raises(ArgumentError, match="the texts name 10 classes; leave it out"):
        load(num_classes=4)
    write_texts("narrow.safetensors", dimensions=5)
    with pytest.raises(ModelError, match="the texts have 5 dimensions, the images 512"):
        load(f"{TOWER}+narrow.safetensors")


@pytest.mark.parametrize(
    ("tensors", "names", "said"),
    [
        ({"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, ["x", "y"], r"hold a \(2, 3\), b \(2, 3\); give embeddings"),
        ({"a": torch.zeros(2, 3)}, ["x", "y"], "rows must be finite and not 0"),
        ({"a": torch.ones(2, 3)}, ["x", "x"], "2 rows, but 1 different class names"),
        ({"a": torch.ones(2, 3)}, None, "do not say which class each row is; put class_names into the metadata"),
    ],
)
def test_files_that_are_no_texts_are_told(tensors, names, said):
    save_file(tensors, "wrong.safetensors", None if names is None else {"class_names": json.dumps(names)})
    with pytest.raises(ModelError, match=said):
        read_texts("wrong.safetensors")


def run(out, **changes):
    model = {"name": f"{TOWER}+texts.safetensors", "weights": "none", "args": ARGS, "image_size": 8}
    return train_only(read_config(config(Path(out), model=model, precision="fp32", epochs=1) | changes))


@pytest.mark.slow
def test_the_tower_is_trained_and_the_head_is_not():
    """TeCoA: cross-entropy of attacked images against the texts."""
    trained, again = run("run"), run("again")
    before, after = load().network.state_dict(), load_file(trained.folder / "weights.safetensors")
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["tower.head.weight"], before["tower.head.weight"])
    assert_same_weights(trained, again)
    assert models.load(trained.folder).info["class_names"] == list(NAMES)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_evaluated_as_any_classifier(capsys):
    models.save(load(), "saved", extra={"class_names": list(NAMES)})
    call = ["evaluate", "--model", "saved", "--data", "digits", "--limit", "8", "--threat", "Linf:1/255"]
    cli.main([*call, "--suite", "pgd", "--out", "evaluated", "--json"])
    assert json.loads(capsys.readouterr().out)["data"]["n"] == 8


@pytest.mark.slow
def test_exported_as_any_classifier():
    models.save(load(), "saved", extra={"class_names": list(NAMES)})
    exported = torch.export.load(export("saved", "torch", Path("model.pt2")).path).module()
    outputs = exported(images(4))
    logits = outputs[0] if isinstance(outputs, tuple | list) else outputs
    torch.testing.assert_close(logits, models.load("saved")(images(4)), rtol=1e-3, atol=1e-3)


def test_a_protocol_that_trains_the_head_alone_is_refused():
    with pytest.raises(ArgumentError, match=r"protocol.name = 'linear': the head is made of texts"):
        run("run", protocol={"name": "linear"})
