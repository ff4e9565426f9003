"""Parameters of the pipeline `compare`: systems, seeds, and what all of them share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from speaker_verification.common.settings_base import Settings

SystemName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]  # also of a folder
Seed = Annotated[int, Field(ge=0)]


def _lap_astp(**model: Any) -> dict[str, Any]:
    """LAP's recipe with other parts behind the encoder."""
    return {"recipe": "lap_astp", "model": model}


WEIGHTED_SUM = {"kind": "weighted_sum"}
BACKENDS: dict[str, dict[str, Any]] = {
    "lap_astp": {"recipe": "lap_astp"},
    "weighted_sum_astp": _lap_astp(layer_aggregation=WEIGHTED_SUM),
    "mhfa": _lap_astp(layer_aggregation=WEIGHTED_SUM, speaker_network={"kind": "mhfa"}),
    "ca_mhfa": _lap_astp(
        layer_aggregation=WEIGHTED_SUM, speaker_network={"kind": "mhfa", "mhfa": {"context": 4}}
    ),
    "adapter_mfa": _lap_astp(layer_aggregation={"kind": "adapter_mfa"}, speaker_network={"kind": "asp"}),
    "lap_astp_sphereface2": {"recipe": "lap_astp_sphereface2"},
}


class CompareSettings(Settings):
    """Parameters under `compare`."""

    systems: dict[SystemName, dict[str, Any]] = Field(BACKENDS, min_length=1)
    """Systems by name: parameters that make each, among them its recipe; without one: the run's."""
    only: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the systems to compare; null: all."""
    seeds: tuple[Seed, ...] = Field((42, 43, 44), min_length=1)
    """Seeds that each system is trained with."""
    parameters: dict[str, Any] = Field({"phase_defaults": {"rank_by": "validation"}})
    """Parameters of all systems, over recipe and environment, under those that make a system."""
    num_processes: int = Field(1, ge=1)
    """Processes of each training; several are started by torchrun."""

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        for seed in seeds:
            if seeds.count(seed) > 1:
                raise ValueError(f"seed {seed} is given twice: a seed is trained once")
        return seeds
