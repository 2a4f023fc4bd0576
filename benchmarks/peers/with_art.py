"""ART: APGD on a folder of images, as its AutoAttack took longer than 400 s, then a brittle flag."""

import numpy as np
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from flag_by_hand import write_flag
from net import net
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

model = net()
x, y = next(iter(DataLoader(ImageFolder("photos", ToTensor()), batch_size=1000)))
loss = torch.nn.CrossEntropyLoss()
wrapped = PyTorchClassifier(
    model, loss=loss, input_shape=(3, 32, 32), nb_classes=10, clip_values=(0, 1), device_type="cpu"
)
attack = AutoProjectedGradientDescent(
    wrapped, norm=np.inf, eps=24 / 255, eps_step=12 / 255, nb_random_init=5, batch_size=1000, verbose=False
)
right = wrapped.predict(attack.generate(x.numpy(), y.numpy())).argmax(1) == y.numpy()
print(f"robust accuracy {right.mean():.3f}")

decisions = wrapped.predict(x.numpy()).argmax(1)
flipped = wrapped.predict(attack.generate(x.numpy(), decisions)).argmax(1) != decisions
write_flag(model, x, brittle=torch.from_numpy(flipped))
