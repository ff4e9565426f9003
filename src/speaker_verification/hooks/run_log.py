"""Log of a run: a line for each node, and at its end where the results are and what to run next."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.framework.project import settings as kedro_settings
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from speaker_verification.common.progress import busy, duration_text
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.phases import (
    COMPARE,
    COMPARISON,
    COMPRESS,
    ESTIMATE,
    EVALUATION,
    PHASES,
    REPORT,
    VERIFIER,
    checkpoint_of,
    phase_of,
    stage_of,
    trains,
)
from speaker_verification.hooks.base import ParameterisedHook
from speaker_verification.hooks.full_run import (
    StageUse,
    format_estimate,
    left_by,
    note_memory,
    path_of,
    plain_estimate,
    size_of,
    stage_name,
)
from speaker_verification.hooks.inputs import is_optional, workplaces

if TYPE_CHECKING:
    from speaker_verification.training.phase import PhaseSettings
    from speaker_verification.training.timing import PhaseTimes

logger = logging.getLogger(__name__)

DEFAULT = "__default__"  # the pipeline that is run without a name
VERIFY = "speaker-verification verify"  # command that a packaged model serves

_current: RunLogHook | None = None


def later_phases(phase: str) -> dict[str, PhaseSettings]:
    """Phases that the present run trains after a phase."""
    return {} if _current is None else _current.later_phases(phase)


def times_of(phase: str) -> PhaseTimes:
    """Times of a phase's parts, which the present run reads when the phase is over."""
    from speaker_verification.training.timing import PhaseTimes

    return PhaseTimes() if _current is None else _current.times.setdefault(phase, PhaseTimes())


class RunLogHook(ParameterisedHook):
    """Logs each node once it is over, and last of all where to look and what to run next.

    With `fast_dev_run` it also estimates the whole recipe. A run that fails ends with its error.

    Attributes:
        times: times of the parts of each phase that the run has trained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, PhaseTimes] = {}
        self._full: Mapping[str, PhaseSettings] = {}
        self._data_root: Path | None = None
        self._conf: Path | None = None  # where it is not that of the project

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        super().after_context_created(context)
        loader = context.config_loader
        data_root = loader["globals"].get("data_root")
        self._data_root = context.project_path / data_root if data_root else None
        conf = Path(loader.conf_source)
        self._conf = None if conf == context.project_path / kedro_settings.CONF_SOURCE else conf
        if self._parameters is not None and self._parameters.fast_dev_run is not None:
            assert isinstance(loader, RecipeConfigLoader)
            self._full = loader.full_parameters.phases

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        global _current
        _current = self
        self.times = {}
        self._trained = [phase_of(node) for node in pipeline.nodes if trains(node)]
        self._began = self._last_ended = time.monotonic()
        self._running: dict[str, tuple[float, ExitStack, set[str]]] = {}  # start, progress, unsaved outputs
        self._stages: dict[str, StageUse] = {}

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: Node) -> None:
        progress = ExitStack()
        progress.enter_context(busy(_title(node)))
        self._running[node.name] = time.monotonic(), progress, {*node.outputs}

    @hook_impl(wrapper=True)
    def after_node_run(self, node: Node) -> Generator[None, None, None]:
        yield
        if not node.outputs:
            self._log_node(node)

    @hook_impl(wrapper=True)
    def after_dataset_saved(self, dataset_name: str, node: Node) -> Generator[None, None, None]:
        yield  # what others do with the dataset counts as the node's time
        unsaved = self._running[node.name][-1]
        unsaved.discard(dataset_name)
        if not unsaved:
            self._log_node(node)

    @hook_impl
    def on_pipeline_error(self) -> None:
        for _, progress, _ in self._running.values():
            progress.close()
        self._end()

    @hook_impl(wrapper=True)
    def after_pipeline_run(
        self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> Generator[None, None, None]:
        yield  # the lines of others come before these
        trains_others = COMPARE in {stage_of(node) for node in pipeline.nodes}  # shortened as well, elsewhere
        if self._full and self._parameters is not None and self._stages and not trains_others:
            self._estimate(pipeline, catalog)
        took = duration_text(time.monotonic() - self._began)
        logger.info("done in %s: results are in %s", took, self._data_root)
        model = None if self._parameters is None else self._parameters.embed.model
        following = next_pipelines(pipeline, catalog, model)
        if VERIFIER in pipeline.all_outputs():
            _log_next(
                f"{VERIFY} --model={shlex.quote(str(path_of(VERIFIER, catalog)))} ENROL.wav TEST.wav",
                following,
            )
        elif (compressed := checkpoint_of(COMPRESS)) in pipeline.all_outputs():
            given = dict(run_params.get("runtime_params") or {})
            given["embed"] = {**given.get("embed", {}), "model": str(path_of(compressed, catalog))}
            _log_next(_command(EVALUATION, {**run_params, "runtime_params": given}), [])
        elif following:
            _log_next(_command(following[0], run_params, self._conf), following[1:])
        for page in {COMPARISON, REPORT} & pipeline.all_outputs():
            logger.info("%s: %s", page, path_of(page, catalog))
        self._end()

    def later_phases(self, phase: str) -> dict[str, PhaseSettings]:
        """Phases that the run trains after a phase."""
        if self._parameters is None or phase not in self._trained:
            return {}
        later = self._trained[self._trained.index(phase) + 1 :]
        return {name: one for name, one in self._parameters.phases.items() if name in later and one.epochs}

    def _log_node(self, node: Node) -> None:
        started, progress, _ = self._running.pop(node.name)
        progress.close()
        ended = time.monotonic()
        logger.info("%s  %s", _title(node), duration_text(ended - started))
        use = self._stages.setdefault(stage_name(node), StageUse())
        use.seconds += ended - self._last_ended  # with the loading of inputs before it
        note_memory(use)
        self._last_ended = ended

    def _estimate(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Log and save what the whole recipe takes."""
        assert self._parameters is not None
        quick, estimates = self._parameters.phases, {}
        order = [*pipelines, *self._stages]
        for stage, use in sorted(self._stages.items(), key=lambda one: order.index(one[0])):
            use.disk_bytes = size_of(left_by(stage, pipeline, catalog))
            if stage in self.times:
                checkpoint = path_of(checkpoint_of(stage), catalog)
                use.checkpoint_bytes = size_of([checkpoint] if checkpoint else [])
                use = use.in_full(quick[stage], self._full[stage], self.times[stage])
            estimates[stage] = use
        catalog.save(ESTIMATE, plain_estimate(estimates))
        logger.info("Estimate of the same run without fast_dev_run\n%s", format_estimate(estimates))

    def _end(self) -> None:
        global _current
        _current = None


def _title(node: Node) -> str:
    """Name of a node, with its stage before it."""
    name = node.name.rpartition(".")[2]
    return name if node.namespace is None else f"{stage_name(node)}: {name}"


def next_pipelines(
    run: Pipeline, catalog: CatalogProtocol, model: str | None, started: Sequence[str] = ()
) -> list[str]:
    """Pipelines that go on from what a run has made and that miss nothing, in the registry's order.

    Args:
        run: pipeline that was run.
        catalog: catalog of the run.
        model: parameter `embed.model`.
        started: phases with a `start` in their order; what comes before the last of them is of no use.
    """
    unused = PHASES[: PHASES.index(started[-1])] if started else ()
    made = run.all_outputs() or workplaces(run, catalog)
    nodes, road = _node_names(run), pipelines[DEFAULT]
    earlier = _node_names(road.to_nodes(*nodes & _node_names(road)))
    ready = {
        name: _node_names(other)
        for name, other in pipelines.items()
        if name not in (DEFAULT, COMPRESS, *unused)
        and nodes.isdisjoint(_node_names(other))
        and not _node_names(other) <= earlier
        and not made.isdisjoint(other.inputs())
        and all(catalog.exists(one) or is_optional(one, model, started) for one in _datasets_into(other))
    }
    # One that is a part of another is run by it.
    return [name for name, parts in ready.items() if not any(parts < whole for whole in ready.values())]


def _node_names(pipeline: Pipeline) -> set[str]:
    return {node.name for node in pipeline.nodes}


def _datasets_into(pipeline: Pipeline) -> Iterator[str]:
    return (name for name in pipeline.inputs() if not name.startswith("params:") and name != "parameters")


def _log_next(command: str, others: list[str]) -> None:
    logger.info("next: %s%s", command, f" (or {', '.join(others)})" if others else "")


def _command(pipeline: str, run_params: Mapping[str, Any], conf: Path | None = None) -> str:
    """Command that runs a pipeline in the environment and with the parameters of a run.

    Args:
        pipeline: name of the pipeline.
        run_params: parameters of the run.
        conf: folder of its configuration; None for the project's.
    """
    options = [] if conf is None else [shlex.quote(f"--conf-source={conf}")]
    options += [f"--env={run_params['env']}"] if run_params.get("env") else []
    given = ",".join(f"{name}={value}" for name, value in _flat(run_params.get("runtime_params") or {}))
    parameters = [shlex.quote(f"--params={given}")] if given else []
    return " ".join(["kedro run", *options, f"--pipeline={pipeline}", *parameters])


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
