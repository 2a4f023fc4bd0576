"""Which networks the suite ``fast`` was tuned on, and which it is only judged on. Written down before it was tuned.

Networks with masked gradients, networks trained to be robust and networks that are neither are in both groups. Of the
three MNIST networks that others trained for Linf 0.3, whose gradients mislead, one is in the first.
"""

from dataclasses import dataclass

from temper.threat import Norm


@dataclass(frozen=True)
class Entry:
    """A network of the data folder or of masked.py, a ball, and how many test images."""

    network: str
    norm: Norm
    eps: float
    count: int = 256

    @property
    def name(self) -> str:
        """As files and tables call it."""
        return f"{self.network}-{self.norm}-{self.eps:.4g}"


TUNED = (
    Entry("mnist_lenet5_advtrained", "Linf", 0.3),
    Entry("mnist_fgsm", "Linf", 0.15),
    Entry("mnist_quantised", "Linf", 0.1),
    Entry("mnist_winners", "Linf", 0.1),
    Entry("mnist_scaled", "Linf", 0.1),
    Entry("mnist_rounded", "Linf", 0.15),
    Entry("resnet20", "Linf", 2 / 255),
    Entry("cifar_cnn_a_adv", "Linf", 3 / 255),
    Entry("cifar_cnn_a_adv", "L2", 0.4),
    Entry("cifar_resnet4b", "Linf", 4 / 255),
    Entry("cifar_resnet4b", "L2", 0.5),
    Entry("mnist_smallcnn_standard", "Linf", 0.1),
)

JUDGED = (
    Entry("mnist_pgd", "Linf", 0.3),
    Entry("mnist_pgd_pooled", "Linf", 0.25),
    Entry("mnist_smallcnn_trades", "Linf", 0.3),
    Entry("mnist_oscarknagg_linf", "Linf", 0.3),
    Entry("mnist_smallcnn_trades", "L2", 2.0),
    Entry("mnist_fgsm_pooled", "Linf", 0.2),
    Entry("cifar_fgsm", "Linf", 8 / 255),
    Entry("parity_quantised", "Linf", 0.1),
    Entry("cifar_winners", "Linf", 2 / 255),
    Entry("odd_scaled", "Linf", 0.1),
    Entry("cifar_jpeg", "Linf", 4 / 255),
    Entry("cifar_random", "Linf", 1 / 255),
    Entry("mnist_l2", "L2", 1.5),
    Entry("mnist_l2", "Linf", 0.15),
    Entry("cifar_cnn_a_mix", "Linf", 2 / 255),
    Entry("cifar_vit_pgd_2_3_16", "Linf", 2 / 255),
    Entry("cifar_oval_base", "Linf", 2 / 255),
    Entry("cifar_kw_l2_36px", "L2", 0.25),
    Entry("cifar_marabou_small", "Linf", 2 / 255),
    Entry("mnist_lenet5_clntrained", "Linf", 0.1),
    Entry("mnist_conv_small_diffai", "Linf", 0.15),
    Entry("mnist_kw_01", "Linf", 0.1),
    Entry("cifar_cnn_a_mix", "L1", 6.0),
    Entry("cifar_oval_base", "L1", 6.0),
    Entry("mnist_smallcnn_trades", "L1", 8.0),
)
