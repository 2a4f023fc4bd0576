"""Features: the input of the last linear layer, whatever the network, and the network left as it was."""

import pytest
import timm
import torch
from torch import nn

import tiny
from temper.errors import ModelError
from temper.models.classifier import Classifier
from temper.models.features import features_and_logits
from temper.models.preprocessing import Preprocessing

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class TwoHeads(nn.Module):
    """As a distilled transformer: the heads see different inputs, and their outputs are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 4), nn.Linear(128, 4)

    def forward(self, x):
        return (self.one(x.flatten(1)[:, :64]) + self.two(x.flatten(1)[:, 64:])) / 2


class PooledAfter(nn.Module):
    """Its linear layer sees every position, and what it makes of them is averaged afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.flatten(2).transpose(1, 2)).mean(1)


def classifier(network, head):
    return Classifier(network, Preprocessing((0.5,) * 3, (0.25,) * 3, 8), head=head, num_classes=4)


def test_logits_are_what_the_head_makes_of_the_features():
    model = classifier(tiny.network(4).eval(), "head")
    features, logits = features_and_logits(model, IMAGES)
    assert features.shape == (5, 128)
    assert torch.equal(logits, model(IMAGES))
    assert torch.allclose(model.head(features), logits)


def test_gradients_flow_where_they_are_enabled():
    model, images = classifier(tiny.plain(4), "head"), IMAGES.clone().requires_grad_()
    features, logits = features_and_logits(model, images)
    (features.sum() + logits.sum()).backward()
    assert images.grad.abs().sum() > 0
    with torch.no_grad():
        assert not any(each.requires_grad for each in features_and_logits(model, images))


def test_any_module_with_a_linear_last_layer():
    network = tiny.network(4).eval()
    features, logits = features_and_logits(nn.Sequential(network), IMAGES)
    assert torch.allclose(network.head(features), logits)


def test_a_1x1_convolution_as_the_head():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten())
    features, logits = features_and_logits(network, IMAGES)
    assert torch.allclose(features, IMAGES.mean((2, 3)))
    assert torch.allclose(network[1](features[:, :, None, None]).flatten(1), logits)


def test_inputs_of_several_heads_stand_side_by_side():
    network = TwoHeads()
    features, logits = features_and_logits(classifier(network, ("one", "two")), IMAGES)
    assert features.shape == (5, 192)
    assert torch.allclose((network.one(features[:, :64]) + network.two(features[:, 64:])) / 2, logits)


def test_a_distilled_transformer_of_timm():
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, img_size=32, depth=1).eval()
    images = torch.rand(2, 3, 32, 32)
    features, logits = features_and_logits(network, images)
    one, two = features.chunk(2, 1)
    assert torch.allclose((network.head(one) + network.head_dist(two)) / 2, logits, atol=1e-6)


def test_the_model_is_left_as_it_was():
    network = tiny.network(4).train()
    network.conv.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = features_and_logits(network, IMAGES), features_and_logits(network, IMAGES)
    assert torch.equal(first[0], second[0])  # no dropout
    assert network.training
    assert network.norm.training
    assert not network.conv.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert torch.equal(state, torch.random.get_rng_state())


def test_hooks_go_where_the_pass_fails():
    model = classifier(tiny.plain(4), "head")
    with pytest.raises(RuntimeError):
        features_and_logits(model, IMAGES[:, :2])
    assert not model.head._forward_pre_hooks


def test_a_change_of_the_input_in_place_does_not_reach_the_features():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    images = IMAGES.clone()
    features, _ = features_and_logits(network, images)
    images.zero_()
    assert torch.equal(features, IMAGES.flatten(1))


@pytest.mark.parametrize("model", [nn.Flatten(), classifier(nn.Flatten(), ())])
def test_no_linear_last_layer(model):
    with pytest.raises(ModelError, match=r"Flatten: does not end in a linear layer.*let it end in nn\.Linear"):
        features_and_logits(model, IMAGES)


def test_a_head_that_sees_positions():
    with pytest.raises(ModelError, match=r"last linear layer head was given \[\(5, 64, 3\)\] for 5 images"):
        features_and_logits(PooledAfter(), IMAGES)


def test_something_after_the_linear_layer():
    with pytest.raises(ModelError, match=r"something follows 1\)"):
        features_and_logits(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Softmax(1)), IMAGES)


def test_logits_that_are_no_numbers_are_passed_on():
    network = tiny.plain(4)
    torch.nn.init.constant_(network.head.bias, torch.nan)
    assert features_and_logits(network, IMAGES)[1].isnan().all()


def test_a_head_that_does_not_run():
    network = nn.ModuleDict({"body": nn.Flatten(), "head": nn.Linear(2, 4)})
    network.forward = lambda x: x.flatten(1)[:, :4]
    with pytest.raises(ModelError, match="head was given nothing"):
        features_and_logits(classifier(network, "head"), IMAGES)
