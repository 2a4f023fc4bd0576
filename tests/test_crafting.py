"""What an attack may see of a model, and that the model comes back as it was lent."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from temper.attacks.apgd import APGD
from temper.attacks.attack import input_gradient, perturb
from temper.attacks.crafting import crafting, foldable
from temper.attacks.losses import cross_entropy
from temper.attacks.pgd import PGD

pytestmark = pytest.mark.numerical


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and shifts as after training; fresh ones would make folding nearly an identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    tensor.data.normal_(0, 0.2, generator=generator)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model


class Net(nn.Module):
    """Conv, batch norm and dropout; the convolution's output goes where ``wiring`` says."""

    def __init__(self, wiring: str = "plain", norm: nn.Module | None = None) -> None:
        super().__init__()
        self.wiring = wiring
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)
        randomise_norms(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        y = self.conv(x)
        if self.wiring == "output used elsewhere":
            y = self.norm(y) + y
        elif self.wiring == "activated between":
            y = self.norm(y.relu_())
        elif self.wiring == "conv used twice":
            y = self.norm(self.conv(y))
        elif self.wiring == "norm used twice":
            y = self.norm(self.norm(y))
        else:
            y = self.norm(y)
        return self.head(self.dropout(y.relu().mean((2, 3))))


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def images(count: int = 4, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 2, 3])


def lent_model() -> nn.Module:
    """A model in the middle of training: mixed modes, a frozen layer, gradients that wait to be applied."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    model.train()
    model.stem_norm.eval()
    model.stem.weight.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.5)
    return model


def state_of(model: nn.Module) -> dict:
    """Everything that must be the same afterwards; tensors as clones and as the objects they are."""
    return {
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "objects": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "gradients": [id(parameter.grad) for parameter in model.parameters()],
        "names": [name for name, _ in model.named_parameters()],
        "attributes": [set(vars(module)) for module in model.modules()],
        "values": [tensor.detach().clone() for tensor in model.state_dict().values()],
        "gradient values": [p.grad.clone() for p in model.parameters() if p.grad is not None],
        "rng": [torch.get_rng_state()],
    }


def assert_same(before: dict, after: dict) -> None:
    for name, value in before.items():
        if name in ("values", "gradient values", "rng"):
            assert all(map(torch.equal, value, after[name])), name
        else:
            assert value == after[name], name


@pytest.mark.parametrize("attack", [PGD(3), APGD(3)])
@pytest.mark.parametrize("fold", [False, True])
def test_the_model_comes_back_as_it_was(attack, fold):
    model, keys = lent_model(), torch.arange(4)
    before = state_of(model)
    pairs = foldable(model, images()) if fold else None
    assert_same(before, state_of(model))
    assert not fold or len(pairs) == 2
    with crafting(model, pairs) as lent:
        perturb(attack, lent, images(), LABELS, 0.1, "Linf", keys=keys)
    assert_same(before, state_of(model))


@pytest.mark.parametrize("fold", [False, True])
def test_it_comes_back_when_the_attack_fails(fold):
    model = lent_model()
    pairs = foldable(model, images()) if fold else None
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt), crafting(model, pairs):
        assert not model.training
        raise KeyboardInterrupt
    assert_same(before, state_of(model))


def test_it_comes_back_when_looking_for_pairs_fails():
    model = lent_model()
    before = state_of(model)
    with pytest.raises(RuntimeError):
        foldable(model, torch.zeros(2, 5, 8, 8))
    assert_same(before, state_of(model))
    assert not any(module._forward_hooks for module in model.modules())


def test_inside_all_is_eval_mode_and_parameters_need_no_gradient():
    model = lent_model()
    with crafting(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        first, _, _ = input_gradient(model, images(), lambda z: cross_entropy(z, LABELS))
        second, _, _ = input_gradient(model, images(), lambda z: cross_entropy(z, LABELS))
    assert torch.equal(first, second)  # no dropout


def test_a_backward_pass_while_crafting_reaches_the_input_alone():
    model, x = lent_model(), images().requires_grad_()
    pairs = foldable(model, images())
    before = state_of(model)
    with crafting(model, pairs):
        model(x).sum().backward()
    assert x.grad is not None
    assert_same(before, state_of(model))


def test_crafting_nests():
    model = lent_model()
    before = state_of(model)
    with crafting(model), crafting(model, foldable(model, images())):
        pass
    assert_same(before, state_of(model))


# --- folding --------------------------------------------------------------------------------------


def assert_folding_changes_nothing(model: nn.Module, x: Tensor, pairs: list) -> None:
    y, weights = torch.arange(len(x)), [conv.weight for conv, _ in pairs]
    with crafting(model):
        logits, _, gradient = input_gradient(model, x, lambda z: cross_entropy(z, y))
    with crafting(model, pairs):
        assert all(
            conv.weight is not own and "forward" in vars(norm) for own, (conv, norm) in zip(weights, pairs, strict=True)
        )
        folded_logits, _, folded_gradient = input_gradient(model, x, lambda z: cross_entropy(z, y))
    torch.testing.assert_close(folded_logits, logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item())
    similar = nn.functional.cosine_similarity(folded_gradient.flatten(1), gradient.flatten(1))
    assert similar.min() > 0.999
    size = folded_gradient.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    assert ((size > 0.99) & (size < 1.01)).all()


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 20), ("mobilenetv2_100", 52), ("efficientnet_b0", 49), ("convnext_atto", 0)]
)
def test_batch_norms_of_timm_networks_fold(name, count):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomise_norms(timm.create_model(name, pretrained=False, num_classes=10))
    x = images(2, 64)
    pairs = foldable(model, x)
    assert len(pairs) == count
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == count  # all there are
    if pairs:
        assert_folding_changes_nothing(model, x, pairs)


def test_batch_norms_of_a_trained_network_fold(network):
    model = network("resnet20")
    x = images(4, 32)
    pairs = foldable(model, x)
    assert len(pairs) == 19
    assert_folding_changes_nothing(model, x, pairs)


def test_an_activation_inside_the_norm_stays():
    model = Net(norm=BatchNormAct2d(6, act_layer=nn.SiLU))
    pairs = foldable(model, images())
    assert len(pairs) == 2
    assert_folding_changes_nothing(model, images(), pairs)


def test_pairs_hold_while_the_weights_change():
    model = Net()
    pairs = foldable(model, images())
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()
    nn.functional.cross_entropy(model(images()), LABELS).backward()
    optimiser.step()
    assert_folding_changes_nothing(model, images(), pairs)


def test_an_output_that_is_used_elsewhere_is_found_out_by_trying():
    assert foldable(Net("output used elsewhere"), images()) == []


@pytest.mark.parametrize("wiring", ["conv used twice", "norm used twice", "activated between"])
def test_shared_and_separated_layers_are_left_alone(wiring):
    model = Net(wiring)
    assert foldable(model, images()) == [(model.stem, model.stem_norm)]


class Standardised(nn.Conv2d):
    """A convolution that computes something else than its class's name says."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, padding=1)


def test_other_layers_are_left_alone():
    for norm in (
        nn.BatchNorm2d(6, affine=False),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.GroupNorm(2, 6),
        nn.Identity(),
    ):
        model = Net(norm=norm)
        assert foldable(model, images()) == [(model.stem, model.stem_norm)]
    model = Net()
    model.conv = Standardised(6, 6, 3)
    assert foldable(model, images()) == [(model.stem, model.stem_norm)]
