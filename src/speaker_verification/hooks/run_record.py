"""Record of a run: recipe, environment, code and parameters, for its checkpoints and its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline

from speaker_verification.common.errors import UserError
from speaker_verification.config.differences import (
    EVALUATION_GROUPS,
    TRAINING_GROUPS,
    differing_parameters,
    parameter_values,
)
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.phases import COMPRESS, LAST_CHECKPOINT, RUN_RECORD, phase_of, trains
from speaker_verification.hooks.base import ParameterisedHook
from speaker_verification.hooks.tracking.environment import CHANGES_TAG, COMMIT_TAG, source_tags

logger = logging.getLogger(__name__)

_of_training: Mapping[str, Any] = {}  # of the pipeline that this process runs


def training_record() -> Mapping[str, Any]:
    """Record of the present run that its checkpoints keep; empty where no run is recorded."""
    return _of_training


class RunRecordHook(ParameterisedHook):
    """Records a run that trains for its checkpoints, and one that reports for its report."""

    def __init__(self) -> None:
        super().__init__()
        self._loader: RecipeConfigLoader | None = None
        self._project = Path()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        super().after_context_created(context)
        assert isinstance(context.config_loader, RecipeConfigLoader)
        self._loader, self._project = context.config_loader, Path(context.project_path)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        global _of_training
        _of_training = {}
        trained, reported = any(map(trains, pipeline.nodes)), RUN_RECORD in pipeline.inputs()
        if self._loader is None or not (trained or reported):
            return
        compresses = any(phase_of(node) == COMPRESS for node in pipeline.nodes)
        groups = (*TRAINING_GROUPS, COMPRESS) if compresses else TRAINING_GROUPS
        present = present_record(self._loader, self._project, groups)
        if trained:
            _of_training = present
        if reported:
            earlier = {} if LAST_CHECKPOINT in pipeline.all_outputs() else self._earlier(catalog)
            catalog[RUN_RECORD] = MemoryDataset(report_record(self._loader, present, earlier))

    def _earlier(self, catalog: CatalogProtocol) -> Mapping[str, Any]:
        """Record of the run that trained the model to report on; empty where it kept none."""
        from speaker_verification.models.weight_files import read_json
        from speaker_verification.training.kept_epochs import RUN_FILE, TRAINED_BY, evaluated_model

        if self._parameters is None or self._parameters.embed.model is not None:
            return {}
        try:
            folder = evaluated_model(self._parameters.embed, lambda: catalog.load(LAST_CHECKPOINT))
            return read_json(folder / RUN_FILE).get(TRAINED_BY, {})
        except (UserError, DatasetError):
            return {}


def present_record(
    loader: RecipeConfigLoader, project: Path, groups: Sequence[str] = TRAINING_GROUPS
) -> dict[str, Any]:
    """Recipe, environment, commit and parameters of training of the present run, as plain values.

    Args:
        loader: loader of the run's parameters.
        project: folder of the project.
        groups: groups of the parameters of training.
    """
    used, tags = loader["parameters"], source_tags(project)
    return {
        "recipe": used["recipe"],
        "environment": loader.env or loader.default_run_env,
        "commit": tags.get(COMMIT_TAG),
        "clean": tags[CHANGES_TAG] == "no" if tags else None,
        "parameters": {group: used[group] for group in groups if group in used},
    }


def report_record(
    loader: RecipeConfigLoader, present: Mapping[str, Any], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Record of the run that trained, with the parameters that differ from its recipe's, as plain values.

    Args:
        loader: loader of the parameters of the run that reports.
        present: record of that run.
        earlier: record of an earlier run that trained the model; empty where there is none.
    """
    training, used = earlier or present, loader["parameters"]
    trained_here = used["embed"]["model"] is None
    groups = (TRAINING_GROUPS if trained_here else ()) + EVALUATION_GROUPS
    used = {**used, **training["parameters"]}
    try:
        published = loader.parameters_of_recipe(training["recipe"])
    except UserError as error:
        logger.warning("the report does not compare the parameters with those of the recipe: %s", error)
        published = used
    code, reporting = ({name: record[name] for name in ("commit", "clean")} for record in (training, present))
    return {
        "recipe": training["recipe"] if trained_here else None,
        "environment": training["environment"],
        **code,
        "reported_by": None if reporting == code else reporting,
        "differences": [one._asdict() for one in differing_parameters(published, used, groups)],
        "parameters": parameter_values(used, groups),
    }
