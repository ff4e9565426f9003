"""Checks of a run before its first node, in one order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, CatalogProtocol, SharedMemoryDataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.config.phases import (
    COMPRESS,
    ENCODER,
    EVALUATION,
    IMPORT,
    LAST_CHECKPOINT,
    MIRROR,
    REPORT,
    TRAINED,
    phase_of,
    stage_of,
    trains,
)
from speaker_verification.hooks.base import ParameterisedHook
from speaker_verification.hooks.compared import ComparedHook
from speaker_verification.hooks.inputs import OptionalInputsHook, evaluates
from speaker_verification.hooks.resume import InterruptedPhaseHook
from speaker_verification.hooks.run_record import RunRecordHook

if TYPE_CHECKING:
    from speaker_verification.config.tree import Parameters
    from speaker_verification.models.settings import FrontendSettings
    from speaker_verification.scoring.settings import EmbedSettings

DEVICE = "params:device"
COMPOSED = ("__default__", EVALUATION)  # pipelines that are made of others
SHOWN_VERSIONS = 3


class ParametersHook(ParameterisedHook):
    """Refuses absent devices, and parameters that the corpus makes impossible.

    The corpus is known from the prepared tables or, before it is prepared, from the listings of the mirror's
    archives, which are checked before the first one is converted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stages: set[str] = set()
        self._converts = False

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        if isinstance(catalog, SharedMemoryDataCatalog):  # made for it; hooks do not work in its processes
            raise ParameterError(
                "ParallelRunner cannot run this project: use SequentialRunner or ThreadRunner"
            )
        self._stages = {stage for node in pipeline.nodes if (stage := stage_of(node))}
        if self._parameters is not None and any(map(_takes_device, pipeline.nodes)):
            from speaker_verification.common.device import check_device

            check_device(self._parameters.device)
        self._converts = "utterances" in pipeline.all_outputs()
        if "validation_trials" in pipeline.all_outputs():
            self._stages.add("prepare")
        _refuse_replacing(pipeline, catalog)
        if corpus := _prepared(pipeline, catalog, "utterances", "trials"):
            self._refuse_impossible(*corpus)
        if self._parameters is not None:
            _refuse_other_data(self._parameters, self._stages, pipeline, catalog)

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        if MIRROR in outputs and self._converts and self._parameters is not None:
            from speaker_verification.config.feasibility import refuse_impossible_mirror

            refuse_impossible_mirror(self._parameters, outputs[MIRROR], self._stages)

    def _refuse_impossible(self, utterances: Any, trials: Any) -> None:
        from speaker_verification.config.feasibility import refuse_impossible

        if self._parameters is not None:
            refuse_impossible(self._parameters, utterances, trials, self._stages)


def _refuse_replacing(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Refuse to import trials over those of a prepared corpus."""
    made = pipeline.all_outputs()
    if "trials" in made and "training_utterances" not in made and catalog.exists("training_utterances"):
        raise ParameterError(
            "the data root holds a prepared corpus, whose trials those of imported embeddings would replace: "
            "add --env=imported, or take an environment of your own"
        )


def _takes_device(node: Node) -> bool:
    if node.namespace == REPORT:  # it does without
        return False
    return DEVICE in node.inputs or f"{phase_of(node)}.job" in node.inputs


def _prepared(pipeline: Pipeline, catalog: CatalogProtocol, *names: str) -> list[Any] | None:
    """Tables that a pipeline takes, if it takes all of them and all are there."""
    if pipeline.inputs().issuperset(names) and all(catalog.exists(name) for name in names):
        return [catalog.load(name) for name in names]
    return None


def _refuse_other_data(
    parameters: Parameters, stages: Collection[str], pipeline: Pipeline, catalog: CatalogProtocol
) -> None:
    """Refuse tables that were prepared for other parameters or another model."""
    from speaker_verification.config import feasibility

    if phases := [stage for stage in stages if stage in TRAINED]:
        if catalogs := _prepared(pipeline, catalog, "noise_clips", "rirs"):
            feasibility.refuse_missing_augmentation(parameters, phases, *catalogs)
        if split := _prepared(pipeline, catalog, "utterances", "validation_utterances"):
            feasibility.refuse_other_split(parameters.prepare, *split)
    if EVALUATION in stages and parameters.score.calibration_speakers == "validation":
        model = _evaluated_model(parameters.embed, pipeline, catalog)
        if model is not None and (validation := _prepared(pipeline, catalog, "validation_utterances")):
            feasibility.refuse_trained_validation(model, *validation)


def _evaluated_model(embed: EmbedSettings, pipeline: Pipeline, catalog: CatalogProtocol) -> Path | None:
    """Folder of the model whose embeddings are scored, where it is there already."""
    from speaker_verification.training.kept_epochs import evaluated_model

    there = LAST_CHECKPOINT not in pipeline.all_outputs() and catalog.exists(LAST_CHECKPOINT)
    if embed.model is None and not there:
        return None
    return evaluated_model(embed, lambda: catalog.load(LAST_CHECKPOINT))


class StartHook(ParameterisedHook):
    """Refuses versions that were never saved, and folders that hold no model."""

    @hook_impl
    def before_pipeline_run(
        self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        refuse_absent_versions(run_params.get("load_versions") or {}, catalog)
        if self._parameters is None:
            return
        if any("params:embed" in node.inputs and node.namespace != REPORT for node in pipeline.nodes):
            _refuse_bad_model(self._parameters.embed.model)
        if ENCODER in pipeline.all_outputs() and self._parameters.pretrain.start is None:
            _refuse_bad_encoder(self._parameters.model.frontend)
        _refuse_bad_starts(self._parameters, pipeline)


def _refuse_bad_starts(parameters: Parameters, pipeline: Pipeline) -> None:
    """Refuse a phase's start that is no model, and phases of the run that nothing would use."""
    trained = {phase_of(node) for node in pipeline.nodes if trains(node)}
    named = {"compress.start": parameters.compress.start, "embed.model": parameters.embed.model}
    others = [name for name, model in named.items() if model is not None]
    if COMPRESS in trained and others and evaluates(pipeline):
        raise ParameterError(
            f"parameter '{others[0]}' names a model, and '{COMPRESS}' and the evaluation of this run would "
            "take one of them both: run one after the other"
        )
    for origin in dict.fromkeys(parameters.origin(phase) for phase in TRAINED if phase in trained):
        start = parameters.phases[origin].start
        if start is None:
            continue
        from speaker_verification.models.settings import read_saved_configuration
        from speaker_verification.training.kept_epochs import saved_model

        if unused := [phase for phase in TRAINED[: TRAINED.index(origin)] if phase in trained]:
            names = {node.name for node in pipeline.nodes}
            used = [
                name
                for name, other in pipelines.items()
                if name not in (*COMPOSED, *unused) and {node.name for node in other.nodes} <= names
            ]
            raise ParameterError(
                f"parameter '{origin}.start' is '{start}', so that nothing would use what "
                f"{' and '.join(unused)} trains: run the rest by --pipelines={','.join(used)}"
            )
        try:
            read_saved_configuration(saved_model(Path(start)))
        except DataError as error:
            raise ParameterError(f"parameter '{origin}.start': {error}") from None


def _refuse_bad_model(model: str | None) -> None:
    from speaker_verification.models.settings import read_saved_configuration
    from speaker_verification.training.kept_epochs import saved_model

    if model is not None:
        try:
            read_saved_configuration(saved_model(Path(model)))
        except DataError as error:
            raise ParameterError(f"parameter 'embed.model': {error}") from None


def _refuse_bad_encoder(frontend: FrontendSettings) -> None:
    from speaker_verification.models.settings import check_encoder_folder

    if frontend.checkpoint is not None:
        try:
            check_encoder_folder(frontend.checkpoint, frontend.adapter)
        except DataError as error:
            raise ParameterError(f"parameter 'model.frontend.checkpoint': {error}") from None


def refuse_absent_versions(load_versions: Mapping[str, str], catalog: CatalogProtocol) -> None:
    """Refuse versions that were never saved, naming the newest that were.

    Raises:
        DataError: naming the dataset.
    """
    for name, version in load_versions.items():
        dataset = catalog.get(name)
        if not isinstance(dataset, AbstractVersionedDataset) or dataset._version is None:
            raise DataError(f"--load-versions: '{name}' keeps no versions: leave it out")
        path = Path(dataset._filepath)
        if not (path / version / path.name).exists():
            saved = sorted((found.parent.name for found in path.glob(f"*/{path.name}")), reverse=True)
            newest = f"the newest are {', '.join(saved[:SHOWN_VERSIONS])}" if saved else "it has none yet"
            raise DataError(f"--load-versions: '{name}' has no version '{version}': {newest}")


class InputsHook(ParameterisedHook):
    """Names the pipelines to run first for inputs that are missing."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        parameters = self._parameters
        if parameters is not None and parameters.pretrain.start is None and ENCODER in pipeline.all_outputs():
            _refuse_missing_encoder(parameters.model.frontend.checkpoint, catalog)
        missing = sorted(
            name
            for name in pipeline.inputs()
            if not name.startswith("params:") and name != "parameters" and not catalog.exists(name)
        )
        if not missing:
            return
        makers = [
            name
            for name, other in pipelines.items()
            if name not in (*COMPOSED, IMPORT) and not other.all_outputs().isdisjoint(missing)
        ]
        commands = ", then ".join(f"kedro run --pipeline={name}" for name in makers)
        if LAST_CHECKPOINT in missing:
            compresses = f"{COMPRESS}.job" in pipeline.inputs()
            commands += f"; or name a saved model by {'compress.start' if compresses else 'embed.model'}"
        raise DataError(f"missing inputs: {', '.join(missing)}; run first: {commands}")


def _refuse_missing_encoder(checkpoint: str | None, catalog: CatalogProtocol) -> None:
    if checkpoint is not None:
        from speaker_verification.config.feasibility import locate_encoder

        locate_encoder(checkpoint, Path(catalog["encoders_folder"]._filepath))


class ChecksHook:
    """The checks of a run in their order: parameters, models, interrupted phases, inputs."""

    def __init__(self) -> None:
        self._parameters = ParametersHook()
        self._checks = (
            self._parameters,
            StartHook(),
            InterruptedPhaseHook(),
            OptionalInputsHook(),
            RunRecordHook(),
            ComparedHook(),
            InputsHook(),
        )

    @hook_impl(tryfirst=True)  # before Kedro's own validator, whose messages name no nearest parameter
    def after_context_created(self, context: KedroContext) -> None:
        for check in self._checks:
            check.after_context_created(context)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(
        self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        parameters, models, interrupted, optional, record, compared, inputs = self._checks
        parameters.before_pipeline_run(pipeline, catalog)
        models.before_pipeline_run(run_params, pipeline, catalog)
        interrupted.before_pipeline_run(run_params, pipeline, catalog)
        optional.before_pipeline_run(pipeline, catalog)
        record.before_pipeline_run(pipeline, catalog)
        compared.before_pipeline_run(pipeline, catalog)
        inputs.before_pipeline_run(pipeline, catalog)

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        self._parameters.after_node_run(outputs)
