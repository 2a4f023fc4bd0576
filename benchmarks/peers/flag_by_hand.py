"""What a user of an attack library writes for a brittle flag: a threshold on the logit margin, in one file."""

import torch
from torch import nn


class Flagging(nn.Module):
    def __init__(self, model: nn.Module, threshold: float) -> None:
        super().__init__()
        self.model, self.threshold = model, threshold

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(x)
        top = logits.topk(2).values
        return logits, top[:, 0] - top[:, 1] <= self.threshold


def write_flag(model: nn.Module, x: torch.Tensor, brittle: torch.Tensor) -> None:
    """Flags at least 95 % of the brittle decisions among these images; of others nothing is promised."""
    top = model(x).detach().topk(2).values
    threshold = (top[:, 0] - top[:, 1])[brittle].quantile(0.95).item()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Flagging(model, threshold), (x[:2],), dynamic_shapes=batch)
    torch.export.save(program, "flag.pt2")
