"""Averages of weights: over the last epochs, and over the best checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from speaker_verification.models.encoders.lora import load_merged_state, merged_state
from speaker_verification.models.speaker_model import SpeakerModel

State = Mapping[str, Tensor]


def mean_state(states: Sequence[State]) -> dict[str, Tensor]:
    """Mean of the weights of several states of one module; counters are the last one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if last.is_floating_point()
        else last.clone()
        for name, last in states[-1].items()
    }


class MovingAverage:
    """Exponential moving average of a module's state, one update an epoch.

    The first update takes the state as it is; a later one gives it the weight `newest_weight`. LoRA is
    merged before: the product of averaged matrices is not the average of their products.

    Source: P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
    with the weighting of LAP's recipe.
    """

    def __init__(self, newest_weight: float) -> None:
        self._newest_weight = newest_weight
        self._state: dict[str, Tensor] = {}

    def update(self, module: nn.Module) -> None:
        """Take the module's present state in."""
        for name, newest in merged_state(module).items():
            if name in self._state and newest.is_floating_point():
                self._state[name] = self._state[name].to(newest).lerp(newest, self._newest_weight)
            else:
                self._state[name] = newest.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The average; empty before the first update."""
        return self._state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self._state = state

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with averaged weights, until the end of the block gives it its own back."""
        own = {name: value.clone() for name, value in module.state_dict().items()}
        load_merged_state(module, self._state)
        try:
            yield
        finally:
            module.load_state_dict(own)


@torch.no_grad()
def reestimate_statistics(model: SpeakerModel, waveforms: Iterable[Tensor]) -> None:
    """Measure again what batch normalisation knows of the data, after weights were averaged.

    Everything else is in evaluation mode, so that the statistics are of what evaluation will see. Means and
    (unbiased) variances are those of the batches, averaged.

    Args:
        model: changed in place; left in evaluation mode.
        waveforms: batches (B, samples), made as they are asked for.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    for batch in waveforms:
        model(batch.to(model.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
