"""Runs that `compare` plans: every system with every seed, on one corpus, with what all of them share."""

from __future__ import annotations

from typing import Any

import pytest

from speaker_verification.common.errors import ParameterError
from speaker_verification.config.compare_settings import BACKENDS
from speaker_verification.config.loader import RecipeConfigLoader
from speaker_verification.config.planned_runs import PlannedRun, plan_runs
from speaker_verification.settings import CONFIG_LOADER_ARGS
from tests.support.config import CONF


def planned(only: str = "lap_astp", **given: Any) -> list[PlannedRun]:
    """Runs of the environment `mini` with parameters of the command line."""
    compare = {"only": only, "seeds": "1", **given.pop("compare", {})}
    loader = RecipeConfigLoader(
        str(CONF), env="mini", runtime_params={"compare": compare, **given}, **CONFIG_LOADER_ARGS
    )
    return plan_runs(loader)


def test_every_system_runs_with_the_first_seed_before_any_with_the_next() -> None:
    runs = planned("lap_astp;mhfa", compare={"seeds": "5;7"})
    assert [run.name for run in runs] == ["lap_astp seed 5", "mhfa seed 5", "lap_astp seed 7", "mhfa seed 7"]
    assert [run.parameters["seed"] for run in runs] == [5, 5, 7, 7]


def test_the_published_backends_differ_in_what_makes_them_alone() -> None:
    runs = {run.system: run.values() for run in planned(";".join(BACKENDS))}
    kinds = (
        "model.layer_aggregation.kind",
        "model.speaker_network.kind",
        "model.speaker_network.mhfa.context",
    )
    assert {name: [values[kind] for kind in kinds] for name, values in runs.items()} == {
        "lap_astp": ["lap", "astp", "0"],
        "weighted_sum_astp": ["weighted_sum", "astp", "0"],
        "mhfa": ["weighted_sum", "mhfa", "0"],
        "ca_mhfa": ["weighted_sum", "mhfa", "4"],
        "adapter_mfa": ["adapter_mfa", "asp", "0"],
        "lap_astp_sphereface2": ["lap", "astp", "0"],
    }
    for name, values in runs.items():
        assert {values[f"{phase}.rank_by"] for phase in ("pretrain", "finetune", "lmft")} == {"validation"}
        head = {"head.kind"} | {f"{phase}.margin." for phase in ("pretrain", "finetune", "lmft")}
        allowed = (*kinds, *(head if name == "lap_astp_sphereface2" else ()))
        differing = [one for one in values if values[one] != runs["lap_astp"][one]]
        assert [one for one in differing if not one.startswith(allowed)] == []


def test_what_all_share_goes_over_recipe_and_environment_and_under_what_makes_a_system() -> None:
    shared = {"phase_defaults": {"batch_size": 8}, "finetune": {"epochs": 4}, "embed": {"max_seconds": 3.0}}
    systems = {"longer": {"recipe": "mhfa_slt22", "finetune": {"epochs": 9}}, "as_all": {}}
    as_all, longer = (
        planned(name, compare={"parameters": shared, "systems": systems})[0].parameters
        for name in ("as_all", "longer")
    )
    assert (as_all["recipe"], longer["recipe"]) == ("lap_astp", "mhfa_slt22")
    for phase in ("pretrain", "finetune", "lmft"):
        assert as_all[phase]["batch_size"] == longer[phase]["batch_size"] == 8
    assert (as_all["finetune"]["epochs"], longer["finetune"]["epochs"]) == (4, 9)
    assert longer["embed"]["max_seconds"] == 3.0
    given = planned("longer", compare={"systems": systems}, finetune={"epochs": 2})[0].parameters
    assert given["finetune"]["epochs"] == 2  # the command line goes over all


def test_a_quick_check_shortens_every_system() -> None:
    (run,) = planned(fast_dev_run=3)
    phase = run.parameters["finetune"]
    assert (phase["epochs"], phase["steps_per_epoch"], run.parameters["fast_dev_run"]) == (2, 3, None)


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ({"lap": {"recipe": "lap_asp"}}, r"compare\.systems\.lap: .*'lap_asp'.* did you mean 'lap_astp'\?"),
        ({"lap": {"model": {"layers": 1}}}, r"compare\.systems\.lap: unknown parameter 'model\.layers'"),
        ({"lap": {"finetune": {"epochs": -1}}}, r"compare\.systems\.lap: parameter 'finetune\.epochs' is -1"),
        ({"lap": {"seed": 3}}, r"compare\.systems\.lap sets 'seed'"),
        ({"lap": {"embed": {"model": "/models/one"}}}, r"leave out embed\.model"),
        (
            {"lap": {}, "other": {"prepare": {"validation_speakers": 12}}},
            r"lap and other differ in the corpus.*prepare\.validation_speakers is 16 and 12",
        ),
        ({"lap": {}, "again": {"recipe": "lap_astp"}}, r"lap and again have the same parameters"),
    ],
)
def test_a_system_that_cannot_be_compared_is_refused_by_name(
    systems: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        planned(";".join(systems), compare={"systems": systems})


def test_unknown_names_and_repeated_seeds_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"compare\.only names 'lap_atsp'.* did you mean 'lap_astp'\?"):
        planned("lap_atsp")
    with pytest.raises(ParameterError, match=r"'compare\.seeds': seed 4 is given twice"):
        planned(compare={"seeds": "4;5;4"})
