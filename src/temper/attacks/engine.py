"""The batch engine: samples flow through a full batch, and one that is done leaves its row to the next.

Nothing is computed for samples whose answer is known. The search may run in low precision and with batch norms
folded; a flip counts only after the full-precision check of the very image that is returned.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from temper.attacks.crafting import crafting, lay_out
from temper.attacks.flow import Flow
from temper.attacks.suites import Stage
from temper.attacks.targets import linearised_distances, nearest_first
from temper.attacks.verification import Lent
from temper.attacks.work import Finished, Note, Work
from temper.threat import Norm


class AttackEngine(Lent):
    """A model that is being searched."""

    def flow(self, stage: Stage, work: Work, norm: Norm, eps: Tensor, seed: int) -> Iterator[Finished]:
        """Run one attack on all samples, each at its own radius; yields them as they finish, in no set order.

        What is found on a sample, and what is counted, depends on nothing but model, seed, sample, attack, norm,
        radius and the hardware's precision.

        Args:
            stage: what to run.
            work: the samples.
            norm: Linf, L2 or L1.
            eps: float64 [N]; inf for attacks that look for the nearest flip without a limit.
            seed: of the random streams.
        """
        self._lay_out(work)
        low = self.half if self.half in stage.bears else None
        flow = Flow(self, stage, work, norm, eps, seed, low)
        yield from self._run(flow)
        lost = np.array(sorted(flow.lost), dtype=np.int64)
        if len(lost):  # low precision had no number for them
            places = torch.as_tensor(lost, device=work.x.device)
            for done in self._run(Flow(self, stage, work.take(places), norm, eps[places], seed, None)):
                place = int(lost[done.place])
                forward, backward = flow.lost[place]
                yield replace(done, place=place, forward=done.forward + forward, backward=done.backward + backward)

    def nearest_targets(self, work: Work, norm: Norm) -> Iterator[Finished]:
        """Put each sample's rivals in the order of their linearised distances; yields what is to be noted of it.

        One forward pass, and a backward pass per rival, in the lower precision where there is one: it takes little to
        tell which boundary is nearer.
        """
        self._lay_out(work)
        start = 0
        while start < len(work) and not self.interrupted():
            places = torch.arange(start, min(start + self.batch_size, len(work)), device=work.x.device)
            part = work.take(places)
            try:
                with crafting(self.model), self.searching(self.half, work.x.device) as model:
                    order = nearest_first(linearised_distances(model, part, norm))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self.halve(len(part), work.x.device, error)
                continue
            for place, targets in zip(places.tolist(), order.tolist(), strict=True):
                note = Note(targets=tuple(targets))
                yield Finished(place, None, self.passes, self.passes * len(targets), note=note)
            start += len(part)

    def _lay_out(self, work: Work) -> None:
        if self.folds is None and len(work):  # of no image it cannot be told which layout the model takes
            self.folds = lay_out(self.model, self.pairs, work.x[:1])

    def _run(self, flow: Flow) -> Iterator[Finished]:
        with crafting(self.model):  # once for all steps: walking through all modules takes longer than a small network
            while flow.busy and not self.interrupted():
                try:
                    yield from flow.advance()
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not _out_of_memory(error):
                        raise
                    flow.halve(error)


def _out_of_memory(error: BaseException) -> bool:
    """torch has a class for a full GPU, and words for a full main memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
