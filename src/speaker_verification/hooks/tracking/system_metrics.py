"""Load of the machine while a run lasts: processors, memory, disk, network and GPUs."""

from __future__ import annotations

import logging
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speaker_verification.hooks.tracking.runs import TrackedRun

logger = logging.getLogger(__name__)

PREFIX = "system/"  # of the metrics that MLflow shows on a page of their own
MONITORS = {
    "cpu_monitor": "CPUMonitor",
    "disk_monitor": "DiskMonitor",
    "network_monitor": "NetworkMonitor",
    "gpu_monitor": "GPUMonitor",
}


class SystemMetricsSampler:
    """Thread that samples MLflow's monitors, until it is stopped, and logs to a run.

    MLflow's own thread gives up, or waits for minutes, where its server is away.

    Args:
        run: run to log to.
        seconds: time between two samples.
    """

    def __init__(self, run: TrackedRun, seconds: float) -> None:
        self._run = run
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="system metrics", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample."""
        self._stopped.set()
        self._thread.join(timeout=self._seconds)

    def _sample(self) -> None:
        monitors = _monitors()
        last = not monitors
        while not last:
            last = self._stopped.wait(self._seconds)
            values: dict[str, float] = {}
            for monitor in monitors:
                try:
                    monitor.collect_metrics()
                    values |= monitor.aggregate_metrics()
                    monitor.clear_metrics()
                except Exception as error:  # a driver's; no figure of the machine may stop the work
                    logger.debug("no system metrics of %s: %s", type(monitor).__name__, error)
            self._run.log_sample({f"{PREFIX}{name}": value for name, value in values.items()})


def _monitors() -> list[Any]:
    """MLflow's monitors of what this machine has and whose libraries are installed."""
    found = []
    for module, name in MONITORS.items():
        try:
            found.append(getattr(import_module(f"mlflow.system_metrics.metrics.{module}"), name)())
        except Exception as error:  # no psutil, no GPU, or a driver that does not answer
            logger.debug("no system metrics of %s: %s", name, error)
    return found
