"""Kedro runner for the processes that torchrun starts."""

from __future__ import annotations

from typing import Any

from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from speaker_verification.common.distributed import joined_processes, processes
from speaker_verification.config.phases import DISTRIBUTED_TAG

STARTED, ENDED = "run started", "run ended"  # events


class DistributedRunner(SequentialRunner):
    """Runs nodes with the tag `distributed` on all processes, and all other nodes on the first.

    The first process runs the pipeline as a sequential runner does; it alone calls hooks and saves outputs.
    The others wait until it announces a distributed node (`hooks.inputs.AnnouncementHook`), load its inputs
    from the catalog, whose folders all processes share, or get from it those that are not saved, and compute
    with it; their outputs are dropped.
    """

    def run(
        self, pipeline: Pipeline, catalog: CatalogProtocol, *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        """Run a pipeline; see `SequentialRunner.run`. Processes other than the first return nothing.

        Raises:
            PeerError: another process has failed.
        """
        with joined_processes() as group:
            if group.is_first:
                outputs: dict[str, Any] = super().run(pipeline, catalog, *arguments, **options)
                group.announce(ENDED)
                return outputs
            _follow(pipeline, catalog)
            return {}

    def _run(self, pipeline: Pipeline, *arguments: Any, **options: Any) -> None:
        processes().announce(STARTED, [node.name for node in pipeline.nodes])
        super()._run(pipeline, *arguments, **options)


def _follow(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Run the distributed nodes of a pipeline together with the first process."""
    group = processes()
    run_by_first = group.await_event(STARTED)  # without the nodes whose outputs were there already
    for node in pipeline.nodes:
        if DISTRIBUTED_TAG not in node.tags or node.name not in run_by_first:
            continue
        group.await_event(node.name)
        in_memory: dict[str, Any] = group.first({})
        saved = [name for name in node.inputs if name not in in_memory]
        for name in saved:
            if not isinstance(catalog.get(name), MemoryDataset):
                catalog.release(name)  # may know a version from before the run
        node.run({name: catalog.load(name) for name in saved} | in_memory)
    group.await_event(ENDED)
