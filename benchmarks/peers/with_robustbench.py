"""RobustBench: the AutoAttack that it declares on a folder of images, then a brittle flag.

Its own ``benchmark`` reads the data sets of its leaderboards alone. Version 1.1.1 imports ``autoattack``, which is not
on the registry; the package that it declares, pyautoattack, stands in, and setuptools below 81 has to be installed.
"""

import sys

import pyautoattack
from flag_by_hand import write_flag
from net import net
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

sys.modules["autoattack"] = pyautoattack
from robustbench.utils import clean_accuracy  # noqa: E402

model = net()
x, y = next(iter(DataLoader(ImageFolder("photos", ToTensor()), batch_size=1000)))
attack = pyautoattack.AutoAttack(model, norm="Linf", eps=24 / 255)
adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=1000)
print(f"robust accuracy {clean_accuracy(model, adversarial, y):.3f}")

decisions = model(x).argmax(1)
flipped, _ = attack.run_standard_evaluation(x, decisions, batch_size=1000)
write_flag(model, x, brittle=model(flipped).argmax(1) != decisions)
