"""Averages of the weights over training, which then are what is evaluated and saved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_swa_avg_fn, update_bn

from temper.core import randomness
from temper.training.batches import batches
from temper.training.protocols import Phase
from temper.training.schedules import whole_epochs
from temper.training.sections.learning import OptimiserConfig
from temper.training.session import Session
from temper.training.update import share_statistics


class Average(ABC):
    """An average of a module's state.

    Attributes:
        state: what the module would load in its place; None as long as nothing was averaged.
    """

    state: dict[str, Tensor] | None = None

    @abstractmethod
    def after_step(self, module: nn.Module, step: int) -> None:
        """Take in the state after ``step`` updates of the weights."""

    @abstractmethod
    def after_epoch(self, module: nn.Module, epoch: int, renew: Callable[[], None]) -> None:
        """Take in the state after ``epoch`` epochs; ``renew`` measures the module's batch-norm statistics anew."""


class MovingAverage(Average):
    """Exponential moving average of a module's floating-point state after every update; integers are copied."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = _copied(module)

    @torch.no_grad()
    def after_step(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's state after ``step`` updates.

        The decay grows with the steps up to its value, so that a short run's average forgets where it began.
        """
        decay = min(self.decay, step / (9 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def after_epoch(self, module: nn.Module, epoch: int, renew: Callable[[], None]) -> None:
        """Nothing: the statistics are averaged with the weights."""


class EpochAverage(Average):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): the mean of the weights at the end of every
    epoch from ``first`` on, by torch's own rule, with batch-norm statistics that are measured for it."""

    def __init__(self, first: int) -> None:
        self.first = first

    def after_step(self, module: nn.Module, step: int) -> None:
        """Nothing: it is the ends of epochs that count."""

    @torch.no_grad()
    def after_epoch(self, module: nn.Module, epoch: int, renew: Callable[[], None]) -> None:
        """Average the parameters, take buffers as they are, and renew the batch-norm statistics, as torch does."""
        taken = epoch - self.first  # epochs that are in the average already
        if taken < 0:
            return
        state = _copied(module)
        if self.state is not None:
            rule = get_swa_avg_fn()
            for name, _ in module.named_parameters(remove_duplicate=False):
                state[name] = rule(self.state[name], state[name], taken)
        self.state = state
        with averaged(module, self):
            renew()
            self.state = _copied(module)


def make_average(module: nn.Module, config: OptimiserConfig, first: int, last: int, epochs: int) -> Average | None:
    """The configured average of a phase that trains the epochs ``first`` to ``last`` of so many; None without one.

    Of a phase that ends before the start share, its last epoch is what is averaged.
    """
    if config.ema is not None:
        return MovingAverage(module, config.ema)
    if config.swa is not None:
        return EpochAverage(min(max(whole_epochs(config.swa, epochs) + 1, first), last))
    return None


@contextmanager
def averaged(module: nn.Module, average: Average | None) -> Iterator[None]:
    """Lend the module the averaged state, if there is one."""
    if average is None or average.state is None:
        yield
        return
    own = _copied(module)
    module.load_state_dict(average.state)
    try:
        yield
    finally:
        module.load_state_dict(own)


def renew_statistics(session: Session, phase: Phase, epoch: int) -> None:
    """Measure batch-norm statistics anew for the weights that the classifier has now, by torch's ``update_bn``: one
    forward pass of the epoch's training images, unattacked, and nothing where there is no batch norm.

    A frozen backbone keeps its own, as in training.
    """
    if phase.trained == "head":
        return
    fabric, seed = session.fabric, session.task.config.seed
    torch.manual_seed(randomness.number(seed, "statistics", epoch, fabric.global_rank))  # of dropout
    with fabric.autocast():
        update_bn(batches(session, epoch, 0), session.classifier)
    share_statistics(fabric, session.classifier)
    if any(isinstance(module, _BatchNorm) for module in session.classifier.modules()):  # else it asked for nothing
        session.progress.counted[2] += session.progress.epoch_sums[0]


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
