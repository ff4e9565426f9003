"""Typed, closed tree of all parameters, checked before any node runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import Field, model_validator

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.common.errors import ParameterError, in_group
from speaker_verification.common.settings_base import Settings
from speaker_verification.config.compare_settings import CompareSettings
from speaker_verification.config.phases import PHASE_DEFAULTS, PHASES, TRAINED
from speaker_verification.corpora.download.sources import DownloadSettings
from speaker_verification.corpora.registry import trial_lists
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.shards import ShardSettings
from speaker_verification.corpora.subsets import refuse_tested_subsets, subsets_of
from speaker_verification.deployment.settings import PackageSettings
from speaker_verification.models.encoders import adapter_class
from speaker_verification.models.heads import HeadSettings
from speaker_verification.models.settings import ModelSettings, encoder_width
from speaker_verification.scoring.settings import (
    CompareRunsSettings,
    EmbedSettings,
    ImportSettings,
    MeasureSettings,
    ReportSettings,
    ScoreSettings,
)
from speaker_verification.training.compression.settings import CompressSettings
from speaker_verification.training.phase import PhaseSettings, refuse_rank
from speaker_verification.training.run import PhaseJob


class Parameters(Settings):
    """All parameters of `conf/*/parameters*.yml` and `--params`."""

    read_before = (PHASE_DEFAULTS,)

    recipe: str
    """Recipe, a file of conf/recipes: what is trained, whatever the environment."""
    fast_dev_run: int | None = Field(ge=1)
    """Steps of an epoch, with at most two epochs a phase, to try a recipe; null: full training."""
    seed: int = Field(ge=0)
    """Seed of weights, order, crops, augmentation and calibration trials; prepare.seed draws the data."""
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device: auto (a GPU if there is one), cpu or cuda:N."""
    download: DownloadSettings
    prepare: PrepareSettings
    shards: ShardSettings
    model: ModelSettings
    head: HeadSettings
    augmentation: AugmentationSettings
    pretrain: PhaseSettings
    """Training of all behind the frozen frontend."""
    finetune: PhaseSettings
    """Joint training with the frontend."""
    lmft: PhaseSettings
    """Large-margin fine-tuning on long crops."""
    compress: CompressSettings
    """Pruning of a trained model's encoder."""
    embed: EmbedSettings
    score: ScoreSettings
    package: PackageSettings
    report: ReportSettings
    import_embeddings: ImportSettings
    measure: MeasureSettings
    compare_runs: CompareRunsSettings
    compare: CompareSettings

    @classmethod
    def _joined(cls, messages: list[str]) -> list[str]:
        """Messages that are the same of every phase, told once: the mistake is in `phase_defaults`."""
        of_phase = rf"'({'|'.join(PHASES)})(?=[.'])"
        common = [re.sub(of_phase, f"'{PHASE_DEFAULTS}", message) for message in messages]
        counts = Counter(common)
        told = (one if counts[one] == len(PHASES) else own for one, own in zip(common, messages, strict=True))
        return list(dict.fromkeys(told))

    @property
    def phases(self) -> dict[str, PhaseSettings]:
        """Settings of the phases and of the compression by name, in their order."""
        return {phase: getattr(self, phase) for phase in TRAINED}

    def origin(self, phase: str) -> str:
        """Phase that begins what a phase goes on with: the last up to it with a `start`, or the first."""
        upto = TRAINED[: TRAINED.index(phase) + 1]
        return next((name for name in reversed(upto) if self.phases[name].start is not None), TRAINED[0])

    def class_speeds(self, phase: str) -> tuple[float, ...]:
        """Speeds of the classes of a phase's head: those of its origin, unless they were cut off since."""
        names = TRAINED[TRAINED.index(self.origin(phase)) : TRAINED.index(phase) + 1]
        line = [self.phases[name] for name in names]
        return next((one for one in reversed(line) if one.cut_head), line[0]).class_speeds

    def job(self, phase: str) -> PhaseJob:
        """All settings of a phase, by its name."""
        return PhaseJob(
            phase,
            self.phases[phase],
            self.model,
            self.head,
            self.augmentation,
            self.seed,
            self.device,
            self.phases[self.origin(phase)].start,
        )

    @model_validator(mode="after")
    def _possible(self) -> Parameters:
        contradictions = [*self._in_model(), *self._in_phases(), *self._in_sets()]
        if contradictions:
            raise ValueError("; ".join(contradictions))
        return self

    def _in_model(self) -> Iterator[str]:
        width = encoder_width(self.model.frontend)
        if width is not None:
            for fault in self.model.layer_aggregation.faults(width):
                yield str(fault._replace(parameter=f"model.layer_aggregation.{fault.parameter}"))
        architecture = self.model.frontend.architecture
        if architecture is None:
            return
        where = "model.frontend.architecture"
        try:
            family = adapter_class(architecture.get("model_type"), self.model.frontend.adapter)
        except ParameterError as error:
            yield f"parameter '{where}': {error}"
            return
        for fault in family.architecture_faults(architecture):
            yield str(fault._replace(parameter=f"{where}.{fault.parameter}"))

    def _in_phases(self) -> Iterator[str]:
        known = (*trial_lists(), *self.prepare.other_trial_lists)
        for name, phase in self.phases.items():
            yield from _refused(f"{name}.margin", self.head.chosen_class.check_top_k, phase.margin.top_k)
            unknown = [monitored for monitored in phase.monitor if monitored not in known]
            if unknown:
                yield f"parameter '{name}.monitor' holds {', '.join(unknown)}: known are {', '.join(known)}"
            if phase.rank_by in known and phase.rank_by not in self.prepare.list_names:
                yield f"parameter '{name}.rank_by' is '{phase.rank_by}': prepare.trial_lists must hold it"
            if name != self.origin(name):
                speeds = self.class_speeds(TRAINED[TRAINED.index(name) - 1])
                yield from _refused(name, phase.refuse_other_classes, speeds)
        for before, name in pairwise(TRAINED):
            taker = self.phases[name]
            if taker.start is None:
                kept = self.phases[before].num_kept
                yield from _refused(name, refuse_rank, taker.choose_top, kept, before)
        if self.embed.model is None:
            rank, kept = self.embed.choose_top, self.lmft.num_kept
            yield from _refused("embed", refuse_rank, rank, kept, PHASES[-1])

    def _in_sets(self) -> Iterator[str]:
        for role, name in self.embed.named_sets.items():
            where = f"parameter 'embed.{role}' is '{name}'"
            try:
                subsets = subsets_of(name)
            except ParameterError as error:
                yield f"{where}: {error}"
                continue
            absent = [subset for subset in subsets if subset not in self.prepare.all_subsets]
            if absent:
                yield f"{where}: prepare.subsets must hold {', '.join(absent)}"
            allowed = self.embed.allow_seen_speakers
            try:
                refuse_tested_subsets(role, name, self.prepare.list_names, allowed)
            except ParameterError as error:
                yield f"parameter 'embed': {error}"
        if self.score.adaptation is not None and self.embed.adaptation_set is None:
            yield (
                f"parameter 'score.adaptation' is '{self.score.adaptation}': embed.adaptation_set must name "
                "recordings of the domain"
            )


def _refused(group: str, check: Callable[..., None], *arguments: Any) -> Iterator[str]:
    """The message of a check of a library floor, if it refuses, on parameters of a group."""
    try:
        with in_group(group):
            check(*arguments)
    except ParameterError as error:
        yield str(error)


def check_parameters(parameters: Mapping[str, Any]) -> Parameters:
    """Refuse a tree that no pipeline could run with.

    Raises:
        ParameterError: naming every offending parameter, with the nearest known name for an unknown one.
    """
    return Parameters.parse(parameters, "")
