"""Networks as people have them, on 3x8x8 images unless said otherwise; tests name them as ``kinds:...``."""

import random
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations


def body() -> list[nn.Module]:
    """To 8 features."""
    return [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def with_head(head: nn.Module) -> nn.Module:
    """The body and this head."""
    return nn.Sequential(*body(), head)


# --- heads ----------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A linear layer with a learned temperature."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Cosine(nn.Linear):
    """A cosine classifier."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * functional.linear(functional.normalize(x, dim=1), functional.normalize(self.weight, dim=1))


def scaled(num_classes: int = 2) -> nn.Module:
    return with_head(Scaled(8, num_classes))


def cosine(num_classes: int = 2) -> nn.Module:
    return with_head(Cosine(8, num_classes, bias=False))


def weight_norm(num_classes: int = 2) -> nn.Module:
    return with_head(parametrizations.weight_norm(nn.Linear(8, num_classes)))


def old_weight_norm(num_classes: int = 2) -> nn.Module:
    return with_head(nn.utils.weight_norm(nn.Linear(8, num_classes)))


def spectral_norm(num_classes: int = 2) -> nn.Module:
    return with_head(parametrizations.spectral_norm(nn.Linear(8, num_classes)))


def old_spectral_norm(num_classes: int = 2) -> nn.Module:
    return with_head(nn.utils.spectral_norm(nn.Linear(8, num_classes)))


def lazy(num_classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))


class Tied(nn.Module):
    """Two layers that share a weight, one of them the head."""

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(*body())
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, num_classes)
        if num_classes == 8:
            self.head.weight = self.hidden.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.body(x)).relu())


def fixed_scaled() -> nn.Module:
    """Takes no num_classes, and its head is no plain one."""
    return scaled(5)


# --- what is not among the saved weights ------------------------------------------------------------


class Projected(nn.Module):
    """A random projection, saved or not."""

    def __init__(self, num_classes: int, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(192, 16), persistent=persistent)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) @ self.projection)


def persistent(num_classes: int = 2) -> nn.Module:
    return Projected(num_classes, persistent=True)


def fleeting(num_classes: int = 2) -> nn.Module:
    return Projected(num_classes, persistent=False)


class Drifting(nn.Module):
    """Keeps a running mean that is neither parameter nor buffer."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.mean = 0.0
        self.head = nn.Linear(192, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * float(x.mean())
        return self.head(x.flatten(1) - self.mean)


_widths = iter(range(4, 1000))


def random_width(num_classes: int = 2) -> nn.Module:
    """Another width each time."""
    width = next(_widths)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, num_classes))


def random_constant(num_classes: int = 2) -> nn.Module:
    """A constant from Python's own random numbers."""
    factor = 0.1 + random.random()

    class Times(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (factor * x).sin()

    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), Times(), nn.Linear(16, num_classes))


def not_finite(num_classes: int = 2) -> nn.Module:
    """Weights as after a training that went astray."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
    nn.init.constant_(network[1].weight, float("nan"))
    return network


# --- sizes ----------------------------------------------------------------------------------------


def flat(num_classes: int = 2) -> nn.Module:
    """Takes images of 3x48x48 alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, num_classes))


def wide(num_classes: int = 2) -> nn.Module:
    """Takes images of 3x20x30 alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 30, num_classes))


def patches(num_classes: int = 2) -> nn.Module:
    """Takes images of 3x384x384 alone."""
    return nn.Sequential(nn.AvgPool2d(24), nn.Flatten(), nn.Linear(3 * 256, num_classes))


def plain(num_classes: int = 2) -> nn.Module:
    """Takes images of any size."""
    return with_head(nn.Linear(8, num_classes))


def linear(num_classes: int = 3) -> nn.Module:
    """Takes images of 3x32x32 alone, and every image of it has a flip near by."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


# --- outputs --------------------------------------------------------------------------------------


class OneOutput(nn.Module):
    """A binary classifier by brightness: its logit, or its probability, is that of class 1."""

    def __init__(self, *, sigmoid: bool = False, flat: bool = False) -> None:
        super().__init__()
        self.head, self.sigmoid, self.flat = nn.Linear(192, 1), sigmoid, flat
        nn.init.constant_(self.head.weight, 0.2)
        nn.init.constant_(self.head.bias, -0.2 * 192 * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(x.flatten(1))
        z = torch.sigmoid(z) if self.sigmoid else z
        return z.squeeze(1) if self.flat else z


def one_logit() -> nn.Module:
    return OneOutput()


def one_probability() -> nn.Module:
    return OneOutput(sigmoid=True)


class Auxiliary(nn.Module):
    """Gives the outputs of a second head too, in train mode, as Inception and GoogLeNet do."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(*body())
        self.head, self.auxiliary = nn.Linear(8, num_classes), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.body(x)
        return (self.head(features), self.auxiliary(features)) if self.training else self.head(features)


@dataclass
class Given:
    """What networks of other libraries give."""

    features: Tensor
    logits: Tensor


class Several(nn.Module):
    """Gives its logits among other things."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net = kind, plain()

    def forward(self, x: Tensor) -> object:
        if self.kind == "tuple":
            return self.net(x), x.mean((2, 3), keepdim=True)
        made = {"features": x.flatten(1), "logits": self.net(x)}
        return made if self.kind == "dict" else Given(**made)


several_tuple, several_dict, several_dataclass = (
    partial(Several, "tuple"),
    partial(Several, "dict"),
    partial(Several, "dataclass"),
)


# --- forward passes -------------------------------------------------------------------------------


class InPlace(nn.Module):
    """Writes into the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.activation, self.head = nn.ReLU(inplace=True), nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.2)
        return self.head(self.activation(x).flatten(1))


class Outside(nn.Module):
    """The same without that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x - 0.2).relu().flatten(1))


class Cut(nn.Module):
    """Lets no gradient through to its input."""

    def __init__(self, num_classes: int = 2, way: str = "numpy") -> None:
        super().__init__()
        self.way, self.net = way, nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "no_grad":
            with torch.no_grad():
                return self.net(x)
        return self.net(x.detach() if self.way == "detach" else torch.from_numpy(x.detach().numpy()))


class OneByOne(nn.Module):
    """Takes one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(1, 192))


class Coupled(nn.Module):
    """Gives an image other logits beside other images, or from pass to pass."""

    def __init__(self, num_classes: int = 2, way: str = "norm") -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8, track_running_stats=way != "norm")
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "extremes":
            x = (x - x.amin()) / (x.amax() - x.amin())
        if self.way == "noise":
            x = x + 0.01 * torch.rand_like(x)
        features = self.norm(self.conv(x)).relu().mean((2, 3))
        if self.way == "attention":
            features = features + 0.1 * torch.softmax(features @ features.T, 1) @ features
        return self.head(features)


def batch_norm() -> nn.Module:
    return Coupled()


def attention() -> nn.Module:
    return Coupled(way="attention")


def extremes() -> nn.Module:
    return Coupled(way="extremes")


def noise() -> nn.Module:
    return Coupled(way="noise")


def uncoupled() -> nn.Module:
    return Coupled(way="none")


class Flattened(nn.Module):
    """A batch norm without running statistics over features alone: one image has no spread."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(192, track_running_stats=False), nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.flatten(1)))


class Squeezed(nn.Module):
    """Forgets the batch where it is one image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)).squeeze()


class Pairs(nn.Module):
    """Takes two images at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(2, 192))


class SmallAside(nn.Module):
    """An auxiliary head that takes larger images than the network does, and counts in train mode alone."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.main, self.aside = plain(num_classes), nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (self.main(x), self.aside(x)) if self.training else self.main(x)
