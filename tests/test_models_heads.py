"""Heads: found and replaced in every family of networks that a user may bring."""

import pytest
import torch
from torch import nn

from temper.errors import ModelError
from temper.models import find_head, load, replace_head

NUM_CLASSES = 7
# (timm name, input size, arguments): a small variant of each family, at a size that keeps the test quick.
FAMILIES = [
    ("beit_base_patch16_224", 32, {"depth": 2}),
    ("cait_xxs24_224", 32, {"depth": 2}),
    ("coat_lite_tiny", 64, {}),
    ("coatnet_pico_rw_224", 64, {}),
    ("convnext_atto", 32, {}),
    ("crossvit_tiny_240", 240, {}),
    ("deit_tiny_distilled_patch16_224", 32, {"depth": 2}),
    ("deit_tiny_patch16_224", 32, {"depth": 2}),
    ("densenet121", 32, {}),
    ("edgenext_xx_small", 64, {}),
    ("efficientformer_l1", 224, {}),
    ("efficientnet_b0", 32, {}),
    ("eva02_tiny_patch14_224", 28, {"depth": 2}),
    ("fastvit_t8", 64, {}),
    ("ghostnet_050", 32, {}),
    ("levit_128s", 224, {}),
    ("mixer_s32_224", 64, {}),
    ("mobilenetv2_050", 32, {}),
    ("mobilenetv3_small_050", 32, {}),
    ("mobilevit_xxs", 64, {}),
    ("nf_regnet_b0", 32, {}),
    ("pit_ti_224", 224, {}),
    ("poolformer_s12", 64, {}),
    ("pvt_v2_b0", 64, {}),
    ("regnetx_002", 32, {}),
    ("repvgg_a0", 32, {}),
    ("resnet18", 32, {}),
    ("resnetv2_50", 32, {"layers": (1, 1, 1, 1)}),
    ("swin_tiny_patch4_window7_224", 56, {"depths": (1, 1, 1, 1)}),
    ("vgg11", 32, {"mlp_ratio": 0.01}),
    ("vit_tiny_patch16_224", 32, {"depth": 2}),
    ("xcit_nano_12_p16_224", 32, {"depth": 2}),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:timm")
@pytest.mark.parametrize(("name", "size", "arguments"), FAMILIES, ids=[family[0] for family in FAMILIES])
def test_the_head_of_every_timm_family(name, size, arguments):
    classifier = load(f"timm:{name}", weights="none", num_classes=NUM_CLASSES, image_size=size, model_args=arguments)
    images = torch.rand(2, 3, size, size)
    heads, backbone = dict(classifier.head_parameters()), dict(classifier.backbone_parameters())
    assert {**heads, **backbone}.keys() == dict(classifier.named_parameters()).keys()
    assert classifier.num_classes == NUM_CLASSES

    for parameter in backbone.values():
        parameter.requires_grad_(False)
    logits = classifier(images)
    assert logits.shape == (2, NUM_CLASSES)
    assert logits.isfinite().all()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    torch.optim.SGD(classifier.parameters(), lr=1.0).step()
    changed = {key for key, value in classifier.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == heads.keys()

    # The head is the whole of the last linear layer: with zero weights its bias is the logits, exactly.
    bias = torch.arange(NUM_CLASSES, dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in heads.items():
            parameter.copy_(bias) if key.endswith("bias") else parameter.zero_()
        torch.testing.assert_close(classifier(images), bias.expand(2, -1), rtol=0, atol=1e-6)


class HeadDefinedFirst(nn.Module):
    """Two layers as wide as the logits, the head before the other in definition order."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(5, 5)
        self.hidden = nn.Linear(12, 5)
        self.drop = nn.Dropout()

    def forward(self, images):
        return self.classify(self.drop(self.hidden(images.flatten(1)).relu()))


def test_find_head_follows_the_forward_pass_and_leaves_the_mode():
    network = HeadDefinedFirst()
    network.drop.eval()
    assert find_head(network, torch.rand(2, 3, 2, 2)) == ("classify",)
    assert network.training
    assert not network.drop.training


def test_find_head_takes_a_1x1_convolution_but_no_larger_one():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_head(nn.Sequential(nn.Conv2d(3, 4, 1), pool), torch.rand(2, 3, 8, 8)) == ("0",)
    assert find_head(nn.Sequential(nn.Conv2d(3, 4, 3), pool), torch.rand(2, 3, 8, 8)) == ()


def test_replace_head_keeps_kind_bias_dtype_and_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten(), nn.Linear(4, 4)).double().eval()
    replace_head(network, ["0", "2"], 9)
    convolution, linear = network[0], network[2]
    assert convolution.weight.shape == (9, 3, 1, 1)
    assert convolution.bias is None
    assert linear.weight.shape == (9, 4)
    assert linear.bias is not None
    assert linear.weight.dtype == torch.float64
    assert not linear.training


def test_replace_head_says_what_it_cannot_replace():
    with pytest.raises(ModelError, match="does not end in a linear layer"):
        replace_head(nn.Flatten(), (), 3)
    with pytest.raises(ModelError, match=r"Flatten: must be nn.Linear"):
        replace_head(nn.Sequential(nn.Flatten()), "0", 3)
