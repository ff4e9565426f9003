"""Comparison of evaluations on the same trials: rates over seeds, paired differences, a page with both.

Runs whose parameters differ in the seed alone are one system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from speaker_verification.common.errors import DataError, ParameterError, listed
from speaker_verification.reporting import page
from speaker_verification.reporting.figures.comparison import DetCurve, difference_figure, overlaid_det_figure
from speaker_verification.reporting.numbers import decimals, interval, joined, percent
from speaker_verification.reporting.verdict import Verdict
from speaker_verification.scoring.calibration import Calibration
from speaker_verification.scoring.curves import det_curve
from speaker_verification.scoring.metrics import sort_trials
from speaker_verification.scoring.paired import SystemRates, rate_difference, system_rates
from speaker_verification.scoring.trial_speakers import TrialSpeakers, speakers_of_trials

SEED = "seed"  # parameter in which the runs of one system differ
TRIAL = ["enroll_id", "test_id"]
NAMED_PARAMETERS = 3  # in the name of a system, at most
VALIDATION = "validation"  # value of PHASE.rank_by: held-out training speakers
CORPUS_AND_ENCODER = ("prepare.", "model.frontend.")  # groups in which a fair comparison does not differ
BUDGET = (  # parameters of a phase likewise
    "skip",
    "start",
    "epochs",
    "steps_per_epoch",
    "crop_seconds",
    "batch_size",
    "accumulation_steps",
    "speed_factors",
    "rank_by",
)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """Evaluation that is compared with others.

    Attributes:
        address: data root and version that the user knows it by.
        verdict: circumstances.
        scores: table of the SCORES schema.
        calibration: calibration of the scores.
        utterances: columns utterance_id and speaker_id, of all utterances of the trials.
        system: name of the system; None: its recipe, or the model of one from elsewhere.
    """

    address: str
    verdict: Verdict
    scores: pd.DataFrame
    calibration: Calibration
    utterances: pd.DataFrame
    system: str | None = None

    @property
    def name(self) -> str:
        """Name of the system."""
        return self.system or self._origin

    @property
    def _origin(self) -> str:
        """Recipe, or the model of one from elsewhere."""
        model = self.verdict.model
        return self.verdict.recipe or (model.name if model else self.address)

    @property
    def seed(self) -> str:
        """Seed of the training; empty where it is not known."""
        model = self.verdict.model
        return "" if model is None or model.seed is None else str(model.seed)

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """Everything that makes a result but the seed."""
        values = dict(self.verdict.parameters) | {"recipe": self._origin}
        return tuple(sorted((name, value) for name, value in values.items() if name != SEED))

    def scores_of(self, trial_list: str, scoring: str | None) -> pd.DataFrame:
        """Trials of a list in an order of their own, with the compared scoring as `score`.

        Raises:
            ParameterError: the evaluation has no such scoring.
        """
        rows = self.scores[self.scores["trial_list"] == trial_list]
        by_scoring = self.calibration.scores_by_scoring(rows)
        if (chosen := scoring or self.calibration.llr) not in by_scoring:
            raise ParameterError(
                f"compare_runs.scoring is '{chosen}', and {self.address} has {joined(by_scoring)}"
            )
        columns = [*TRIAL, "label"]  # an uncleaned list may have a trial twice, with either label
        trials = rows[columns].astype(dict.fromkeys(TRIAL, str))
        return trials.assign(score=by_scoring[chosen]).sort_values([*columns, "score"], ignore_index=True)


class Changed(NamedTuple):
    """Parameter in which systems differ: its value in each, None where a system lacks it."""

    parameter: str
    values: tuple[str | None, ...]


class Cell(NamedTuple):
    """Difference of two systems in percentage points, its interval, and whether it is clear."""

    difference: float
    interval: tuple[float, float] | None
    is_clear: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """Evaluations by system, on the trial lists that all of them have.

    Attributes:
        runs: two evaluations or more.
        scoring: compared scoring; None: the one that decides in each evaluation.
        num_resamples: resamples of speakers and seeds.
    """

    runs: Sequence[ComparedRun]
    scoring: str | None = None
    num_resamples: int = 200

    @cached_property
    def systems(self) -> dict[str, list[ComparedRun]]:
        """Runs of each system by its name: the recipe, and what tells it from others of that recipe."""
        by_system: dict[tuple[str, tuple[tuple[str, str], ...]], list[ComparedRun]] = {}
        for run in self.runs:
            by_system.setdefault((run.name, run.parameters), []).append(run)
        named: dict[str, list[ComparedRun]] = {}
        for (of_system, parameters), runs in by_system.items():
            alike = [dict(other) for other_name, other in by_system if other_name == of_system]
            own = [
                f"{name} {value}"
                for name, value in parameters
                if any(other.get(name) != value for other in alike)
            ]
            more = ", …" if len(own) > NAMED_PARAMETERS else ""
            name = ", ".join([of_system, *own[:NAMED_PARAMETERS]]) + more
            named[f"{name} ({len(named) + 1})" if name in named else name] = runs
        return named

    @cached_property
    def trial_lists(self) -> list[str]:
        """Trial lists that all runs have, in the order of the first."""
        lists = [list(map(str, run.scores["trial_list"].unique())) for run in self.runs]
        return [name for name in lists[0] if all(name in others for others in lists)]

    @cached_property
    def left_out(self) -> list[str]:
        """Trial lists that some runs lack."""
        named = dict.fromkeys(str(name) for run in self.runs for name in run.scores["trial_list"].unique())
        return [name for name in named if name not in self.trial_lists]

    def changed(self) -> list[Changed]:
        """Parameters in which the systems differ."""
        values = [dict(runs[0].parameters) for runs in self.systems.values()]
        names = dict.fromkeys(name for of_system in values for name in of_system)
        rows = (Changed(name, tuple(of_system.get(name) for of_system in values)) for name in names)
        return [row for row in rows if len(set(row.values)) > 1]

    def unequal(self) -> list[str]:
        """Parameters of corpus, encoder and amount of training in which the systems differ."""
        names = (row.parameter for row in self.changed())
        return [
            name for name in names if name.startswith(CORPUS_AND_ENCODER) or name.rpartition(".")[2] in BUDGET
        ]

    @cached_property
    def is_chosen_on_validation(self) -> bool | None:
        """Whether held-out speakers chose the checkpoints of all phases; None where that is not known."""
        chosen_by = {
            value
            for run in self.runs
            for name, value in run.parameters
            if name.endswith(".rank_by")
            and dict(run.parameters).get(name.replace("rank_by", "epochs")) != "0"
        }
        return chosen_by == {VALIDATION} if chosen_by else None

    @cached_property
    def rates(self) -> dict[str, dict[str, SystemRates]]:
        """Equal error rates of each trial list by system.

        Raises:
            DataError: two runs have other trials or labels in a list of the same name.
            ParameterError: a run has no such scoring.
        """
        return {trial_list: dict(self._rates_on(trial_list)) for trial_list in self.trial_lists}

    def _rates_on(self, trial_list: str) -> Iterator[tuple[str, SystemRates]]:
        trials: pd.DataFrame | None = None
        speakers: TrialSpeakers | None = None
        for name, runs in self.systems.items():
            scores = []
            for run in runs:
                found = run.scores_of(trial_list, self.scoring)
                if trials is None or speakers is None:
                    trials, speakers = found, speakers_of_trials(found, run.utterances)
                self._refuse_other_trials(trial_list, trials, found, run)
                scores.append(found["score"].to_numpy())
            assert trials is not None
            assert speakers is not None
            labels = trials["label"].to_numpy()
            yield name, system_rates(scores, labels, speakers, num_resamples=self.num_resamples)

    def _refuse_other_trials(
        self, trial_list: str, trials: pd.DataFrame, found: pd.DataFrame, run: ComparedRun
    ) -> None:
        columns = [*TRIAL, "label"]
        if len(trials) == len(found) and all(
            np.array_equal(trials[column].to_numpy(), found[column].to_numpy()) for column in columns
        ):
            return
        rows = [set(table[columns].itertuples(index=False, name=None)) for table in (trials, found)]
        first = self.runs[0].address
        raise DataError(
            f"{trial_list}: {len(rows[0] ^ rows[1])} trials or labels are not the same in {first} and "
            f"{run.address}: compare evaluations of one list"
        )


def tabulate_rates(comparison: Comparison) -> pd.DataFrame:
    """Mean equal error rate in % of each system by trial list.

    Returns:
        Columns trial_list, system, num_runs, seeds, eer, deviation over the seeds (missing for one run), and
        low and high, the 95 % interval over speakers and seeds.
    """
    rows = []
    for trial_list, by_system in comparison.rates.items():
        for name, rates in by_system.items():
            runs = comparison.systems[name]
            low, high = rates.interval() or (np.nan, np.nan)
            rows.append(
                {
                    "trial_list": trial_list,
                    "system": name,
                    "num_runs": len(runs),
                    "seeds": " ".join(run.seed or "?" for run in runs),
                    "eer": rates.mean,
                    "deviation": rates.deviation,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def tabulate_differences(comparison: Comparison) -> pd.DataFrame:
    """Paired differences of the mean equal error rates of every two systems by trial list.

    Returns:
        Columns trial_list, first, second, difference (rate of the second less that of the first, in
        percentage points), low and high, its 95 % interval, and is_clear, whether that leaves out 0.
    """
    columns = ["trial_list", "first", "second", "difference", "low", "high", "is_clear"]
    rows = []
    for trial_list, by_system in comparison.rates.items():
        for first, second in combinations(by_system, 2):
            found = rate_difference(by_system[first], by_system[second])
            low, high = found.interval or (np.nan, np.nan)
            rows.append((trial_list, first, second, found.value, low, high, found.is_clear))
    return pd.DataFrame(rows, columns=columns)


def render_comparison(
    comparison: Comparison,
    rates: pd.DataFrame,
    differences: pd.DataFrame,
    costs: pd.DataFrame | None = None,
) -> str:
    """The page of a comparison, as HTML.

    Args:
        comparison: compared evaluations.
        rates: table of `tabulate_rates`.
        differences: table of `tabulate_differences`.
        costs: columns system, encoder_parameters, backend_parameters and training_seconds, a row for each
            run; None where they are not known.
    """
    names = [*comparison.systems]
    to_first = differences[differences["first"] == names[0]]
    return page.render(
        "comparison.html.j2",
        systems=comparison.systems,
        scorings=sorted({comparison.scoring or run.calibration.llr for run in comparison.runs}),
        sentences=list(sentences(rates, differences)),
        rates=_by_list(rates),
        differences=_by_list(differences),
        matrices=_matrices(differences, names) if len(names) > 2 else None,
        costs=None if costs is None else _records(_mean_costs(costs)),
        changed=comparison.changed(),
        unequal=listed(comparison.unequal()),
        is_chosen_on_validation=comparison.is_chosen_on_validation,
        left_out=comparison.left_out,
        det=[overlaid_det_figure(_curves_of(comparison, name), name) for name in comparison.trial_lists],
        forest=difference_figure(to_first) if len(to_first) else None,
        num_resamples=comparison.num_resamples,
    )


def sentences(rates: pd.DataFrame, differences: pd.DataFrame) -> Iterator[str]:
    """The differences in words: of two systems one sentence for each trial list, of more the best's lead.

    Args:
        rates: table of `tabulate_rates`.
        differences: table of `tabulate_differences`.
    """
    if rates["system"].nunique() > 2:
        yield from _leads(rates, differences)
        return
    for row in _records(differences):
        pair = f"{row['second']} against {row['first']}"
        ends = "not known" if row["low"] is None else interval((row["low"], row["high"]))
        difference = row["difference"]
        if row["is_clear"]:
            told = f"{decimals(abs(difference), 2)} points {'fewer' if difference < 0 else 'more'} errors"
            yield f"{row['trial_list']}: {pair}: {told}, interval {ends}."
        else:
            points = f"{decimals(difference, 2)} points"
            yield f"{row['trial_list']}: {pair}: no clear difference ({points}, interval {ends})."


def _leads(rates: pd.DataFrame, differences: pd.DataFrame) -> Iterator[str]:
    for trial_list, rows in rates.groupby("trial_list", sort=False):
        best = rows.sort_values("eer").iloc[0]
        pairs = differences[differences["trial_list"] == trial_list]
        pairs = pairs[(pairs["first"] == best["system"]) | (pairs["second"] == best["system"])]
        others = pairs["first"].where(pairs["second"] == best["system"], pairs["second"])
        clear, unclear = others[pairs["is_clear"]], others[~pairs["is_clear"]]
        told = [f"clearly fewer than {joined(clear)}"] if len(clear) else []
        told += [f"not clearly fewer than {joined(unclear)}"] if len(unclear) else []
        yield (
            f"{trial_list}: {best['system']} has the fewest errors, {percent(best['eer'])} %: "
            f"{', '.join(told)}."
        )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None where they are missing."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _by_list(table: pd.DataFrame) -> Mapping[str, list[dict[str, Any]]]:
    return {str(name): _records(rows) for name, rows in table.groupby("trial_list", sort=False)}


def _matrices(differences: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, list[Cell | None]]]:
    """Differences by trial list and system: the rate of the system less that of each, None for itself."""
    matrices = {}
    for trial_list, rows in _by_list(differences).items():
        cells: dict[tuple[str, str], Cell] = {}
        for row in rows:
            first, second, ends = row["first"], row["second"], None
            if row["low"] is not None:
                ends = row["low"], row["high"]
            cells[second, first] = Cell(row["difference"], ends, row["is_clear"])
            turned = None if ends is None else (0.0 - ends[1], 0.0 - ends[0])
            cells[first, second] = Cell(0.0 - row["difference"], turned, row["is_clear"])
        matrices[trial_list] = {name: [cells.get((name, other)) for other in names] for name in names}
    return matrices


def _mean_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """Costs of each system: its sizes, and the mean time of a training in minutes."""
    sizes = ["encoder_parameters", "backend_parameters"]
    means = costs.groupby("system", sort=False)[[*sizes, "training_seconds"]].mean().reset_index()
    means[sizes] = means[sizes].astype(int)
    return means.assign(minutes=means["training_seconds"] / 60)


def _curves_of(comparison: Comparison, trial_list: str) -> dict[str, list[DetCurve]]:
    """DET curves of each system's runs."""
    curves: dict[str, list[DetCurve]] = {}
    for name, runs in comparison.systems.items():
        for run in runs:
            trials = run.scores_of(trial_list, comparison.scoring)
            in_order = sort_trials(trials["score"].to_numpy(), trials["label"].to_numpy())
            eer, _ = in_order.equal_error_rate()
            curves.setdefault(name, []).append(DetCurve(det_curve(in_order), eer))
    return curves
