"""Settings of the phases in the catalog, and what the processes of torchrun need to run nodes together."""

from __future__ import annotations

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline.node import Node

from speaker_verification.common.distributed import processes
from speaker_verification.config.phases import DISTRIBUTED_TAG, PHASES
from speaker_verification.hooks.base import ParameterisedHook


class JobsHook(ParameterisedHook):
    """Puts all settings of a phase into the catalog, as one input of the node that trains it."""

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        if self._parameters is not None:
            for phase in PHASES:
                catalog[f"{phase}.job"] = MemoryDataset(self._parameters.job(phase), copy_mode="assign")


class AnnouncementHook:
    """Announces nodes of all processes, whose inputs the first one has saved, to the others."""

    @hook_impl(trylast=True)
    def before_node_run(self, node: Node) -> None:
        if DISTRIBUTED_TAG in node.tags:
            processes().announce(node.name)
