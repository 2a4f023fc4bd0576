"""The bundled network: small, pretrained on CIFAR-10, not robust; its card is CARD.md beside it."""

from pathlib import Path

from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")
NUM_CLASSES = 10
IMAGE_SIZE = 32
# Per-channel statistics of CIFAR-10's training pixels, as the field rounds them.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, outputs, H / stride, W / stride]."""
        residual = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(features)))))
        return self.activation(residual + self.shortcut(features))


class BundledNetwork(nn.Module):
    """A residual network for small images and slow machines; global pooling lets it take any input size.

    The first convolution halves the resolution: most of the cost of such networks is at full resolution.
    """

    def __init__(self, num_classes: int = NUM_CLASSES, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = (widths[0], *widths)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(before, after, stride=1 if index == 0 else 2)
                for index, (before, after) in enumerate(zip(inputs, widths, strict=False))
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised float NCHW images."""
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))
