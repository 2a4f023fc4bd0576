"""foolbox: its strongest gradient attack on a folder of images (it has no AutoAttack), then a brittle flag."""

import foolbox
from flag_by_hand import write_flag
from net import net
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

model = net()
x, y = next(iter(DataLoader(ImageFolder("photos", ToTensor()), batch_size=1000)))
wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
attack = foolbox.attacks.LinfProjectedGradientDescentAttack(steps=100, rel_stepsize=0.025).repeat(5)
_, _, broken = attack(wrapped, x, y, epsilons=24 / 255)
print(f"robust accuracy {1 - broken.float().mean():.3f}")

_, _, brittle = attack(wrapped, x, model(x).argmax(1), epsilons=24 / 255)
write_flag(model, x, brittle=brittle)
