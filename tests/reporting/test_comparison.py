"""Comparison of evaluations: systems, rates over seeds, paired differences, and the page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.reporting.comparison import (
    ComparedRun,
    Comparison,
    render_comparison,
    sentences,
    tabulate_differences,
    tabulate_rates,
)
from speaker_verification.reporting.verdict import Verdict
from speaker_verification.scoring import equal_error_rate
from tests.support.evaluations import VERDICT, compared_run


def lap(seed: int, gap: float = 2.0, **parameters: str) -> Verdict:
    assert VERDICT.model is not None
    values = {"seed": str(seed), "finetune.epochs": "10"} | parameters
    return replace(VERDICT, model=replace(VERDICT.model, seed=seed), parameters=values)


MHFA = replace(lap(0, **{"model.layer_aggregation.kind": "mhfa"}), recipe="mhfa_slt22")


def comparison() -> Comparison:
    """Three seeds of a poor system and one run of a good one."""
    poor = [compared_run(f"data/lap@{seed}", lap(seed), gap=1.5, noise=seed) for seed in (0, 1, 2)]
    return Comparison([*poor, compared_run("data/mhfa@1", MHFA, gap=6.0, noise=3)], num_resamples=50)


def test_runs_that_differ_in_the_seed_alone_are_one_system() -> None:
    assert {name: len(runs) for name, runs in comparison().systems.items()} == {
        "lap_astp": 3,
        "mhfa_slt22": 1,
    }


def test_systems_of_one_recipe_are_told_apart_by_their_parameters() -> None:
    runs = [compared_run("a", lap(0)), compared_run("b", lap(0, **{"finetune.epochs": "20"}))]
    assert list(Comparison(runs).systems) == ["lap_astp, finetune.epochs 10", "lap_astp, finetune.epochs 20"]


def test_rates_are_means_over_seeds_and_differences_are_those_of_the_means() -> None:
    compared = comparison()
    rates = tabulate_rates(compared).set_index(["trial_list", "system"])
    for trial_list in ("vox1_o", "vox1_h"):
        eers = []
        for run in compared.runs:
            rows = run.scores[run.scores["trial_list"] == trial_list]
            eers.append(equal_error_rate(rows["qmf"], rows["label"])[0])
        row = rates.loc[(trial_list, "lap_astp")]
        assert (row["eer"], row["deviation"]) == pytest.approx((np.mean(eers[:3]), np.std(eers[:3], ddof=1)))
        assert row["low"] < row["eer"] < row["high"]
        assert row["seeds"] == "0 1 2"
        found = tabulate_differences(compared).set_index("trial_list").loc[trial_list]
        assert found["difference"] == pytest.approx(eers[3] - np.mean(eers[:3]))
        assert found["is_clear"]
    assert rates.loc[("vox1_o", "mhfa_slt22"), "num_runs"] == 1
    assert np.isnan(rates.loc[("vox1_o", "mhfa_slt22"), "deviation"])


def test_the_order_of_the_trials_does_not_matter() -> None:
    compared = comparison()
    last = compared.runs[-1]
    shuffled = replace(last, scores=last.scores.sample(frac=1, random_state=0, ignore_index=True))
    other = replace(compared, runs=[*compared.runs[:-1], shuffled])
    pd.testing.assert_frame_equal(tabulate_differences(other), tabulate_differences(compared))


def test_a_list_may_have_a_trial_with_either_label() -> None:
    runs = [compared_run(name, lap(seed)) for seed, name in enumerate("ab")]
    for place, run in enumerate(runs):
        scores = run.scores.copy()
        again = scores.iloc[[0]].assign(label=1 - scores["label"].iloc[0])
        again[again.select_dtypes("float").columns] += 1e-9 * (-1) ** place  # the same but for rounding
        runs[place] = replace(run, scores=pd.concat([scores, again], ignore_index=True))
    assert len(tabulate_rates(Comparison(runs, num_resamples=5)))


def test_a_difference_of_two_systems_is_told_in_words() -> None:
    rates = pd.DataFrame({"system": ["lap_astp", "mhfa_slt22"]})
    table = pd.DataFrame(
        {
            "trial_list": ["vox1_o", "vox1_h"],
            "first": "lap_astp",
            "second": "mhfa_slt22",
            "difference": [-1.234, -0.5],
            "low": [-2.0, -1.25],
            "high": [-0.5, 0.25],
            "is_clear": [True, False],
        }
    )
    assert list(sentences(rates, table)) == [
        "vox1_o: mhfa_slt22 against lap_astp: 1.23 points fewer errors, interval [−2.00, −0.50].",
        "vox1_h: mhfa_slt22 against lap_astp: no clear difference (−0.50 points, interval [−1.25, 0.25]).",
    ]


def named(system: str, seed: int, gap: float, **parameters: str) -> ComparedRun:
    values = {"model.speaker_network.kind": system, "finetune.rank_by": "validation"} | parameters
    run = compared_run(f"data/{system}@{seed}", lap(seed, **values), gap=gap, noise=seed)
    return replace(run, system=system)


def test_runs_of_one_recipe_are_the_systems_that_they_are_named_as() -> None:
    runs = [named(system, seed, 2.0) for seed in (0, 1) for system in ("astp", "mhfa")]
    assert {name: len(of) for name, of in Comparison(runs).systems.items()} == {"astp": 2, "mhfa": 2}
    assert [row.parameter for row in Comparison(runs).changed()] == ["model.speaker_network.kind"]


def test_of_several_systems_the_lead_of_the_best_is_told_and_every_pair_shown() -> None:
    gaps = {"poor": 1.0, "good": 5.0, "better": 5.0}
    compared = Comparison([named(name, seed, gap) for seed in (0, 1) for name, gap in gaps.items()])
    rates, differences = tabulate_rates(compared), tabulate_differences(compared)
    of_list = rates[rates["trial_list"] == "vox1_o"].set_index("system")["eer"]
    assert of_list["good"] == of_list["better"]  # the same scores
    told = next(sentences(rates, differences))
    assert told == (
        f"vox1_o: good has the fewest errors, {of_list['good']:.2f} %: clearly fewer than poor, "
        "not clearly fewer than better."
    )
    page = render_comparison(compared, rates, differences)
    matrix = page[page.index('class="matrix" data-list="vox1_o"') :].partition("</table>")[0]
    cells = [re.findall(r'<span(?: class="clear")?>(.*?)</span>', row) for row in matrix.split("<tr>")[2:]]
    lead = of_list["poor"] - of_list["good"]
    ahead, behind = f"−{lead:.2f}", f"{lead:.2f}"
    assert cells == [[behind, behind], [ahead, "0.00"], [ahead, "0.00"]]
    assert matrix.count('class="clear"') == 4


def test_a_comparison_tells_whether_it_is_fair() -> None:
    def page_of(**parameters: str) -> str:
        compared = Comparison([named("astp", 0, 2.0), named("mhfa", 0, 3.0, **parameters)], num_resamples=5)
        return render_comparison(compared, tabulate_rates(compared), tabulate_differences(compared))

    fair = page_of()
    assert "Corpus, encoder, crops, batches, epochs and steps are the same" in fair
    assert "chosen on held-out training speakers." in fair
    longer = page_of(**{"finetune.epochs": "20", "finetune.margin.final": "0.2"})
    assert "in more than the model, which may explain a difference too: finetune.epochs." in longer
    assert "not all chosen on held-out" in page_of(**{"finetune.rank_by": "vox1_o"})
    skipped = page_of(**{"lmft.rank_by": "last", "lmft.epochs": "0"})
    assert "chosen on held-out training speakers." in skipped


def test_sizes_and_times_are_shown_by_system() -> None:
    compared = comparison()
    columns = ["system", "encoder_parameters", "backend_parameters", "training_seconds"]
    costs = pd.DataFrame(
        [("lap_astp", 94_000_000, 1_234_567, 60.0), ("lap_astp", 94_000_000, 1_234_567, 120.0)],
        columns=columns,
    )
    page = render_comparison(compared, tabulate_rates(compared), tabulate_differences(compared), costs)
    row = page[page.index("<h2>Size and time</h2>") :].partition("</tr>\n  </tbody>")[0]
    assert re.findall(r'<td class="number">(.*?)</td>', row) == [
        "94\u2009000\u2009000",
        "1\u2009234\u2009567",
        "1.5",
    ]


def test_other_trials_in_a_list_of_the_same_name_are_refused() -> None:
    one, other = (compared_run(name, lap(seed)) for seed, name in enumerate(("data/one", "data/two")))
    fewer = replace(other, scores=other.scores.drop(index=3))
    with pytest.raises(DataError, match=r"vox1_o: 1 trials .* data/one and data/two"):
        tabulate_rates(Comparison([one, fewer]))
    label = other.scores["label"].copy()
    label[3] = 1 - label[3]
    with pytest.raises(DataError, match="vox1_o: 2 trials or labels"):
        tabulate_rates(Comparison([one, replace(other, scores=other.scores.assign(label=label))]))


def test_lists_that_one_lacks_are_left_out_and_told() -> None:
    one, other = (compared_run(name, lap(seed)) for seed, name in enumerate("ab"))
    fewer = replace(other, scores=other.scores[other.scores["trial_list"] == "vox1_h"])
    compared = Comparison([one, fewer], num_resamples=5)
    assert (compared.trial_lists, compared.left_out) == (["vox1_h"], ["vox1_o"])
    page = render_comparison(compared, tabulate_rates(compared), tabulate_differences(compared))
    assert "left out: vox1_o" in page
    assert "nothing to compare but its seeds" in page


def test_a_scoring_that_was_not_computed_is_refused() -> None:
    runs = [compared_run(name, lap(seed)) for seed, name in enumerate("ab")]
    with pytest.raises(ParameterError, match=r"compare_runs\.scoring is 'plda', and a has cosine, as_norm"):
        tabulate_rates(Comparison(runs, "plda"))


class Resources(HTMLParser):
    """Addresses that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_shows_the_figures_of_the_tables_and_loads_nothing() -> None:
    compared = comparison()
    rates, differences = tabulate_rates(compared), tabulate_differences(compared)
    page = render_comparison(compared, rates, differences)
    shown = re.findall(
        r'data-list="(\w+)" data-system="(\w+)">.*?</td>\s*<td class="number">([\d.]+)</td>', page, re.DOTALL
    )
    expected = [(row.trial_list, row.system, f"{row.eer:.2f}") for row in rates.itertuples()]
    assert shown == expected
    for sentence in sentences(rates, differences):
        assert sentence in page
    assert "<code>mhfa</code>" in page
    assert ">finetune.epochs<" not in page  # the same in all
    loaded = Resources()
    loaded.feed(page)
    assert all(address.startswith("#") for address in loaded.found)
    assert len(page.encode()) < 8_000_000


def test_hostile_names_are_escaped() -> None:
    hostile = replace(lap(1), recipe="<script>alert(1)</script>")
    compared = Comparison([compared_run("a", lap(0)), compared_run("b", hostile)], num_resamples=5)
    page = render_comparison(compared, tabulate_rates(compared), tabulate_differences(compared))
    assert "<script>alert" not in page
