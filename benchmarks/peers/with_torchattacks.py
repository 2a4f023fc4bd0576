"""torchattacks: AutoAttack on a folder of images, then a brittle flag."""

import torchattacks
from flag_by_hand import write_flag
from net import net
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

model = net()
x, y = next(iter(DataLoader(ImageFolder("photos", ToTensor()), batch_size=1000)))
attack = torchattacks.AutoAttack(model, norm="Linf", eps=24 / 255, n_classes=10)
right = model(attack(x, y)).argmax(1) == y
print(f"robust accuracy {right.float().mean():.3f}")

decisions = model(x).argmax(1)
write_flag(model, x, brittle=model(attack(x, decisions)).argmax(1) != decisions)
