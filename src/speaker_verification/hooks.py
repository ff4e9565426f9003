"""Checks before the first node runs."""

from __future__ import annotations

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from speaker_verification.errors import DataError

NOT_COUNTED = ("__default__", "evaluate")


class ParametersHook:
    """Refuses unknown and impossible parameters."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from speaker_verification.parameters import check_parameters

        check_parameters(context.params)


class InputsHook:
    """Says which pipeline to run first when what a pipeline starts from is not there."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
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
            if name not in NOT_COUNTED and not other.all_outputs().isdisjoint(missing)
        ]
        commands = ", then ".join(f"kedro run --pipeline={name}" for name in makers)
        raise DataError(f"not there yet: {', '.join(missing)}; run first: {commands}")
