"""Pruning of the encoder in training: gates that close units, up to the epoch that removes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speaker_verification.common.errors import ParameterError
from speaker_verification.data.loading import Batch
from speaker_verification.models.heads.base import Margins
from speaker_verification.models.pruning.cutting import cut
from speaker_verification.models.pruning.gates import PruningGates
from speaker_verification.models.pruning.kept_units import KeptUnits
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.compression.settings import EXPECTED, SPARSITY, WANTED, CompressSettings
from speaker_verification.training.exchange import GradientExchange
from speaker_verification.training.metrics import Metrics
from speaker_verification.training.objective import Loss, Objective
from speaker_verification.training.seeding import common_draw

logger = logging.getLogger(__name__)

MULTIPLIERS = ("lambda_1", "lambda_2")
TOLERANCE = 0.01  # of the expected sparsity around its target


class Pruning(Objective):
    """A guiding loss, with gates on the encoder's units that reach a wanted sparsity.

    While it prunes, the loss has the penalty lambda_1 (s - s*) + lambda_2 (s - s*)^2: s is the sparsity that
    the gates expect, s* the wanted one, which grows linearly to its target. The gates descend it, and both
    multipliers, from 0, ascend it. An epoch hands on a copy of the model from which the units of the least
    gates are removed, as many as expected, and counts among the best once s is within 1 % of the target. The
    last epoch that prunes removes as many as meet the target, also where s misses it, and before the first
    epoch of recovery these units are removed from the model itself.

    Args:
        settings: settings of the phase.
        guide: objective whose loss is taken.
        seed: seed of the gates' samples, which are alike in all processes.

    Source: as Distillation's; with the margin loss J. Peng et al., Hybrid Pruning, arXiv 2508.16232. The
    penalty is that of Z. Wang et al., Structured Pruning of Large Language Models, EMNLP 2020.
    """

    def __init__(self, settings: CompressSettings, guide: Objective, seed: int) -> None:
        self.has_margin = guide.has_margin
        self._settings, self._guide, self._seed = settings, guide, seed
        self._last_epoch = settings.epochs - settings.recovery_epochs
        self._epoch, self._step = 0, 0
        self._kept: KeptUnits | None = None

    def begin(
        self, classifier: SpeakerClassifier, steps_per_epoch: int, reshaped: Callable[[], None]
    ) -> None:
        """As of `Objective`.

        Raises:
            ParameterError: the wanted sparsity would not reach its target before the recovery, the units with
                gates have too few parameters for it, or the encoder cannot be pruned.
        """
        settings = self._settings
        settings.refuse_late_growth(steps_per_epoch)
        self._guide.begin(classifier, steps_per_epoch, reshaped)
        self._model, self._reshaped = classifier.model, reshaped
        self._size_before, self._sparsity = self._model.frontend.encoder.num_parameters(), 0.0
        self._gates = PruningGates(self._model.frontend.adapter, settings.gates)
        gated = float(self._gates.shares.sum())
        if settings.target_sparsity > gated:
            raise ParameterError(
                f"parameter 'compress.target_sparsity' is {settings.target_sparsity:g}: the units that "
                f"compress.gates.units names have {gated:.3f} of the encoder's parameters"
            )
        self._multipliers = nn.Parameter(torch.zeros(len(MULTIPLIERS), device=self._model.device))
        self._exchange = GradientExchange([*self._gates.parameters(), self._multipliers])
        groups: list[dict[str, Any]] = [
            {"params": [*self._gates.parameters()]},
            {"params": [self._multipliers], "maximize": True},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=settings.gate_learning_rate, weight_decay=0)

    def begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        if self._prunes and epoch > self._last_epoch:
            self._remove(self._units_to_keep())

    def begin_pass(self, step: int, index: int) -> None:
        self._step = step
        if self._prunes:
            with common_draw(self._seed, step, index, self._model.device):
                self._gates.draw()

    def loss(self, classifier: SpeakerClassifier, batch: Batch, margins: Margins, autocast: bool) -> Loss:
        return self._guide.loss(classifier, batch, margins, autocast)

    def penalise(self, loss: Tensor) -> Tensor:
        """Loss to minimise, for a guiding loss."""
        if not self._prunes:
            return loss
        excess = self._gates.expected_sparsity() - self._wanted
        return loss + self._multipliers @ torch.stack([excess, excess.square()])

    def update(self) -> None:
        if self._prunes:
            self._exchange.average()
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def handed_on(self, model: SpeakerModel) -> SpeakerModel:
        if self._prunes:
            model = model.copy()
            cut(model, self._units_to_keep())
        self._sparsity = 1 - model.frontend.encoder.num_parameters() / self._size_before
        return model

    @torch.no_grad()
    def metrics(self) -> Metrics:
        metrics = {SPARSITY: self._sparsity}
        if not self._prunes:
            return metrics
        metrics |= {EXPECTED: self._gates.expected_sparsity().item(), WANTED: self._wanted}
        metrics |= dict(zip(MULTIPLIERS, self._multipliers.tolist(), strict=True))
        if self._epoch == self._last_epoch and not self.ranks(metrics):
            logger.warning(
                "compress: the gates expect a sparsity of %.3f after %d epochs, and units are removed to the "
                "target of %.3f all the same: prune for more epochs, raise gate_learning_rate or lower "
                "growth_steps",
                *(metrics[EXPECTED], self._epoch, self._settings.target_sparsity),
            )
        return metrics

    def ranks(self, metrics: Mapping[str, float]) -> bool:
        """Whether the gates of an epoch have reached the target; those of the recovery need not."""
        return abs(
            metrics.get(EXPECTED, self._settings.target_sparsity) - self._settings.target_sparsity
        ) <= (TOLERANCE)

    def state_dict(self) -> dict[str, Any]:
        if self._kept is not None:
            return {"kept_units": self._kept.to_config()}
        return {
            "gates": self._gates.state_dict(),
            "multipliers": self._multipliers.detach(),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "kept_units" in state:
            self._remove(KeptUnits.from_config(state["kept_units"]))
            return
        self._gates.load_state_dict(state["gates"])
        self._multipliers.data.copy_(state["multipliers"])
        self._optimiser.load_state_dict(state["optimiser"])

    def _units_to_keep(self) -> KeptUnits:
        """Units that stay: as many go as expected, from the last epoch that prunes on as meet the target."""
        target = self._settings.target_sparsity if self._epoch >= self._last_epoch else None
        return self._gates.kept_units(target)

    @property
    def _prunes(self) -> bool:
        return self._kept is None

    @property
    def _wanted(self) -> float:
        """Wanted sparsity of the present step."""
        growth = (self._step + 1) / self._settings.growth_steps
        return self._settings.target_sparsity * min(1.0, growth)

    def _remove(self, kept: KeptUnits) -> None:
        """Remove all units but the kept ones from the model in training."""
        self._gates.detach()
        self._kept = kept
        cut(self._model, kept)
        self._reshaped()
        removed = 1 - self._model.frontend.encoder.num_parameters() / self._size_before
        logger.info(
            "compress: %.1f %% of the encoder's %.2f M parameters are removed",
            *(100 * removed, self._size_before / 1e6),
        )
