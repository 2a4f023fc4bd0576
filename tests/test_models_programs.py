"""TorchScript and torch.export files as models: the same network, and nothing in them but a network."""

import io
import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import kinds
from temper import models
from temper.errors import ModelError
from temper.models.weights import load_tensors
from written import one_line

ANY = ({0: torch.export.Dim("batch", min=1)},)


class Named(nn.Module):
    """Its logits among others, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = kinds.plain(3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": x.flatten(1), "logits": self.net(x)}


class Texts(nn.Module):
    """Asks for more than images."""

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A network, and a folder with its files."""
    folder = tmp_path_factory.mktemp("programs")
    torch.manual_seed(0)
    named = Named().eval()
    network, images = named.net, torch.rand(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, images), folder / "script.pt")
        torch.jit.save(torch.jit.freeze(torch.jit.trace(network, images).eval()), folder / "frozen.pt")
        torch.jit.save(torch.jit.trace(Texts(), (images, torch.rand(2, 3))), folder / "texts.pt")
        torch.export.save(torch.export.export(named, (images,), dynamic_shapes=ANY), folder / "any.pt2")
        torch.export.save(torch.export.export(network, (torch.rand(4, 3, 8, 8),)), folder / "four.pt2")
        torch.export.save(torch.export.export(Texts(), (images, torch.rand(2, 3))), folder / "texts.pt2")
    return folder, network


@pytest.mark.parametrize("name", ["script.pt", "frozen.pt", "any.pt2", "four.pt2"])
def test_a_file_gives_the_networks_logits_and_gradients(files, name, caplog):
    folder, network = files
    classifier = models.load(f"torch:{folder / name}")
    for count in (1, 3, 6):
        images = torch.rand(count, 3, 8, 8, requires_grad=True)
        expected = torch.autograd.grad(network(images)[:, 0].sum(), images)[0]
        torch.testing.assert_close(classifier(images), network(images))
        torch.testing.assert_close(torch.autograd.grad(classifier(images)[:, 0].sum(), images)[0], expected)
    assert (classifier.num_classes, classifier.channels) == (3, 3)
    assert classifier.image_size == (8 if name.endswith("pt2") else None)  # TorchScript does not say
    assert ("was exported for batches of 4" in caplog.text) == (name == "four.pt2")


def test_a_saved_program_is_restored_and_keeps_its_size(files, tmp_path):
    folder, _ = files
    classifier = models.load(f"torch:{folder / 'any.pt2'}")
    models.save(classifier, tmp_path)
    assert models.fingerprint(models.load(tmp_path)) == models.fingerprint(classifier)
    with pytest.raises(ModelError, match=r"image_size = 16: .* does not take it") as error:
        models.load(f"torch:{folder / 'any.pt2'}", image_size=16)
    one_line(error)


@pytest.mark.parametrize("name", ["texts.pt", "texts.pt2"])
def test_what_asks_for_more_than_images_is_out_of_scope(files, name):
    with pytest.raises(ModelError, match=r"takes 2 inputs \(x, text\).*are out of scope") as error:
        models.load(f"torch:{files[0] / name}")
    one_line(error)


def test_a_program_is_no_weights_file(files):
    for name in ("script.pt", "any.pt2"):
        with pytest.raises(ModelError, match=f"a whole program .*torch:.*{name}"):
            load_tensors(files[0] / name)


# --- what else may be in a file -----------------------------------------------------------------------


class Bomb:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def changed(source: Path, out: Path, change) -> str:
    """A copy of an archive whose members went through ``change(name, content)``; a MODEL that names it."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(out, "w") as after:
        for name in before.namelist():
            after.writestr(name, change(name.partition("/")[2], before.read(name)))
    return f"torch:{out}"


def in_graph(old: str, new: str):
    return lambda name, content: content.replace(old.encode(), new.encode()) if name == "models/model.json" else content


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"torch.ops.aten.conv2d.default"', '"torch.os.system"', "calls torch.os.system, which could do more"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"', "calls torch.ops.aten.from_file"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.__init__"', "calls torch.ops.aten.__init__"),
        ("Symbol('", "__import__('os').getcwd() or Symbol('", "has .__import__"),
        ('"name": "x"', '"name": "x=print(1)"', "has 'x=print"),
        ("builtins.tuple", "collections.defaultdict", "has 'defaultdict'"),
    ],
)
def test_a_graph_that_does_more_than_compute_is_refused(files, tmp_path, old, new, said):
    text = changed(files[0] / "any.pt2", tmp_path / "evil.pt2", in_graph(old, new))
    assert (tmp_path / "evil.pt2").read_bytes().count(new.encode()) > 0
    with pytest.raises(ModelError, match=said) as error:
        models.load(text)
    one_line(error)


def test_nothing_in_an_exported_file_is_unpickled(files, tmp_path):
    stream = io.BytesIO()
    torch.save(Bomb(tmp_path / "exploded"), stream)

    def as_sample(name, content):
        return stream.getvalue() if name == "data/sample_inputs/model.pt" else content

    def as_weights(name, content):
        if name == "data/weights/weight_0":
            return stream.getvalue()
        if not name.endswith("weights_config.json"):
            return content
        config = json.loads(content)
        next(entry for entry in config["config"].values() if entry["path_name"] == "weight_0")["use_pickle"] = True
        return json.dumps(config).encode()

    for change in (as_sample, as_weights):
        text = changed(files[0] / "any.pt2", tmp_path / "evil.pt2", change)
        with pytest.raises(ModelError, match="holds pickled objects") as error:
            models.load(text)
        one_line(error)
    assert not (tmp_path / "exploded").exists()


def test_compiled_libraries_in_a_file_are_refused(files, tmp_path):
    text = changed(files[0] / "any.pt2", tmp_path / "evil.pt2", lambda name, content: content)
    with zipfile.ZipFile(tmp_path / "evil.pt2", "a") as archive:
        archive.writestr("any/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(ModelError, match=r"holds 'data/aotinductor/model/model.so', which could run as code"):
        models.load(text)


@pytest.mark.parametrize(
    "code", ["torch.save(x, 'a')", "torch . from_file('a')", "ops.rpc.rpc_async(x)", "ops.#\nrpc.a()"]
)
def test_script_that_does_more_than_compute_is_refused(files, tmp_path, code):
    def change(name, content):
        return content + f"\n# {code}".encode() if name.endswith("container.py") else content

    with pytest.raises(ModelError, match="which could do more than compute") as error:
        models.load(changed(files[0] / "script.pt", tmp_path / "evil.pt", change))
    one_line(error)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", b"\x80\x02."])
def test_what_is_no_program_is_said_to_be_none(tmp_path, content):
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"no TorchScript file, and none of torch.export") as error:
        models.load(f"torch:{tmp_path / 'net.pt'}")
    one_line(error)
    with pytest.raises(ModelError, match=r"nowhere.pt: not found"):
        models.check("torch:nowhere.pt")
