"""Checks before anything long begins."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.locks import Hold, hold
from speaker_verification.tracking import CHECKPOINT, goes_on, stage_of, workspace_of

if TYPE_CHECKING:
    from speaker_verification.parameters import Parameters

NOT_COUNTED = ("__default__", "evaluate")


class LockHook:
    """Locks all that a run writes or works in, so that a second run in the same data root is refused.

    It does so round all other hooks: none of them looks at what another run is writing.
    """

    def __init__(self) -> None:
        self._hold: Hold | None = None

    @hook_impl(wrapper=True)
    def before_pipeline_run(
        self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> Generator[None, None, None]:
        self._release()  # of a run of this process that Ctrl-C has ended: no hook is called then
        what = ", ".join(run_params.get("pipeline_names") or ["kedro run"])
        self._hold = hold(owned_paths(pipeline, catalog), what, "another data_root")
        try:
            yield
        except BaseException:
            self._release()
            raise

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        self._release()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None


def owned_paths(pipeline: Pipeline, catalog: CatalogProtocol) -> Iterator[Path]:
    """Local files and folders that nodes of a pipeline write or work in."""
    from speaker_verification.datasets import FolderDataset

    outputs = pipeline.all_outputs()
    for name in sorted(pipeline.datasets()):
        dataset = catalog.get(name)
        if name not in outputs and not (isinstance(dataset, FolderDataset) and dataset.is_workplace):
            continue
        path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
        if path is None or getattr(dataset, "_protocol", "file") != "file":
            continue
        yield Path(path)
        if name.endswith(".workspace"):
            yield Path(path) / CHECKPOINT  # as `train` does, for whoever calls that without a pipeline


class ParametersHook:
    """Refuses unknown and impossible parameters, and those that the corpus makes impossible.

    The corpus is what the prepared tables hold or, before it is prepared, what the mirror's archives name.
    """

    def __init__(self) -> None:
        self._parameters: Parameters | None = None
        self._stages: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from speaker_verification.parameters import check_parameters

        self._parameters = check_parameters(context.params)

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        self._stages = {stage for node in pipeline.nodes if (stage := stage_of(node))}
        corpus = ("utterances", "trials")
        if pipeline.inputs().issuperset(corpus) and all(catalog.exists(name) for name in corpus):
            self._refuse_impossible(*(catalog.load(name) for name in corpus))

    @hook_impl
    def after_node_run(self, node: Node, outputs: dict[str, Any]) -> None:
        if "mirror" in outputs and self._stages and self._parameters is not None:
            from speaker_verification.feasibility import list_corpus

            prepare, seed = self._parameters.prepare, self._parameters.seed
            self._refuse_impossible(*list_corpus(outputs["mirror"], prepare, seed))

    def _refuse_impossible(self, utterances: Any, trials: Any) -> None:
        from speaker_verification.feasibility import refuse_impossible

        if self._parameters is not None:
            refuse_impossible(self._parameters, utterances, trials, self._stages)


class InterruptedPhaseHook:
    """Refuses to make again what an interrupted phase starts from, and clears up behind a finished one."""

    def __init__(self) -> None:
        self._parameters: dict[str, Any] = {}
        self._catalog: CatalogProtocol | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._parameters = context.params

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        self._catalog = catalog
        made = pipeline.all_outputs() - {"encoder"}
        for node in pipeline.nodes:
            phase = stage_of(node)
            remade = node.name == f"{phase}.train_phase" and made.intersection(node.inputs)
            if phase and remade and goes_on(phase, catalog, self._parameters):
                raise ParameterError(
                    f"{phase} was interrupted: --from-nodes={phase}.train_phase goes on from there, "
                    f"--params={phase}.resume=false begins all anew"
                )

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        phase, _, name = dataset_name.partition(".")
        if name == CHECKPOINT and self._catalog is not None:
            from speaker_verification.training.resume import resume_path

            resume_path(workspace_of(phase, self._catalog) / CHECKPOINT).unlink(missing_ok=True)


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
