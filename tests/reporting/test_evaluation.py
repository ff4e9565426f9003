"""The report of an evaluation, parsed as a browser would."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from speaker_verification.common.errors import DataError
from speaker_verification.reporting import evaluation as evaluation_module
from speaker_verification.reporting.evaluation import MAX_BYTES, Evaluation, render_evaluation
from speaker_verification.reporting.verdict import Difference, Verdict
from tests.support.evaluations import VERDICT, foreign_evaluation, small_evaluation

HOSTILE = "<script>alert(1)</script>\"'&"
VOID = {"meta", "br", "audio", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements of a page: attributes by tag, texts of table cells by row, texts outside of programs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[tuple[dict[str, str], list[str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((attributes, []))
        if tag in ("td", "th") and self.rows:
            self.rows[-1][1].append("")
        if tag == "script":
            self.scripts.append((attributes, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, program = self.scripts.pop()
            self.scripts.append((attributes, program + data))
            return
        if "style" not in self.open:
            self.text += data
        if self.rows and ("td" in self.open or "th" in self.open):
            self.rows[-1][1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@cache
def whole() -> tuple[Evaluation, str, Page]:
    evaluation = small_evaluation()
    text = render_evaluation(evaluation)
    return evaluation, text, Page(text)


def test_the_table_holds_the_metrics() -> None:
    evaluation, _, page = whole()
    rates = {
        (row["data-list"], row["data-scoring"]): [cell.strip() for cell in cells]
        for row, cells in page.rows
        if "data-scoring" in row
    }
    assert set(rates) == {
        (trial_list, scoring) for trial_list in evaluation.metrics for scoring in ("cosine", "as_norm", "qmf")
    }
    for (trial_list, scoring), cells in rates.items():
        name, eer, interval, *costs = cells
        values = evaluation.metrics[trial_list][scoring]
        assert name == scoring
        assert float(eer) == pytest.approx(values["eer"], abs=0.005)
        assert [float(end) for end in interval.strip("[]").split(", ")] == pytest.approx(
            values["eer_interval"], abs=0.005
        )
        measured = [
            values[cost]
            for cost in ("min_dcf_p01", "act_dcf_p01", "min_dcf_p05", "act_dcf_p05", "min_cllr", "cllr")
        ]
        assert [float(cost) for cost in costs] == pytest.approx(measured, abs=0.0005)


def test_the_page_names_recipe_code_model_and_corpora_and_compares_with_published_systems() -> None:
    _, _, page = whole()
    told = ("lap_astp", "environment mini", "0123456789ab", "microsoft/wavlm-large", "voxceleb (vox2-dev)")
    assert [name for name in told if name not in page.text] == []
    assert "uncommitted" not in page.text
    assert "do not compare" not in page.text
    (lap,) = [cells for _, cells in page.rows if cells[0].startswith("LAP")]
    assert lap[2:4] == ["0.37", "1.01"]  # of vox1_o and vox1_h


def test_nothing_is_loaded_and_the_program_is_there_once() -> None:
    _, text, page = whole()
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            address = attributes.get(name, "")
            assert not address or address.startswith(("#", "data:")), f"{tag} {name}={address}"
    assert "@import" not in text.split("<script")[0]
    assert "url(" not in text.split("<script")[0]
    programs = [program for attributes, program in page.scripts if "type" not in attributes]
    assert [len(program) > 10**6 for program in programs] == [True, False]
    assert len(text.encode()) < MAX_BYTES


def test_every_figure_has_a_caption_a_text_and_data() -> None:
    _, _, page = whole()
    plots = [attributes for attributes in page.all("div") if attributes.get("class") == "plot"]
    data = [json.loads(program) for attributes, program in page.scripts if "type" in attributes]
    assert len(plots) == len(data) == len(page.all("figcaption")) >= 10
    for plot, content in zip(plots, data, strict=True):
        assert plot["role"] == "img"
        assert plot["aria-label"].endswith(content["layout"]["meta"]["summary"])
        assert "title" not in content["layout"]  # the caption is


def test_tables_tell_screen_readers_what_their_cells_are() -> None:
    _, _, page = whole()
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in header for header in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [link["href"][1:] for link in page.all("a")]
    assert anchors
    assert set(anchors) <= set(ids)


def test_hostile_names_stay_text() -> None:
    evaluation = small_evaluation()
    trials = evaluation.worst_trials.astype({"enroll_id": str})
    rates = evaluation.rates_by_group
    verdict = replace(
        VERDICT,
        recipe=HOSTILE,
        corpora={"trials": [HOSTILE]},
        differences=[Difference(HOSTILE, HOSTILE, HOSTILE)],
    )
    hostile = {"vox1_o": HOSTILE, "vox1_h": "vox1_h"}
    changed = replace(
        evaluation,
        verdict=verdict,
        metrics={hostile[name]: values for name, values in evaluation.metrics.items()},
        worst_trials=trials.assign(enroll_id=HOSTILE),
        rates_by_group=rates.assign(trial_list=HOSTILE, group=HOSTILE),
        det_points=evaluation.det_points.replace({"trial_list": hostile}),
        histogram_bins=evaluation.histogram_bins.replace({"trial_list": hostile}),
        reliability=evaluation.reliability.replace({"trial_list": hostile}),
        players={HOSTILE: "data:audio/mpeg;base64,AAAA"},
    )
    page, plain = Page(render_evaluation(changed)), whole()[2]
    assert len(page.scripts) == len(plain.scripts) + 2  # the addresses of the sounds, and what takes them
    assert page.text.count("alert(1)") >= 5
    assert HOSTILE in [cells[1].strip() for _, cells in page.rows if len(cells) == 3]
    assert {(sound["aria-label"], sound["data-sound"]) for sound in page.all("audio")} == {(HOSTILE, "0")}
    (addresses,) = [program for attributes, program in page.scripts if attributes.get("id") == "addresses"]
    assert json.loads(addresses) == ["data:audio/mpeg;base64,AAAA"]
    for _, program in page.scripts:
        assert "<script>alert" not in program


def test_what_does_not_compare_is_told() -> None:
    verdict = replace(VERDICT, synthetic=True, unofficial=["vox1_o", "vox1_h"], clean=False)
    page = Page(render_evaluation(small_evaluation(verdict=verdict)))
    assert "do not compare with published ones" in page.text
    assert "vox1_o and vox1_h are not the published lists" in page.text
    assert "with uncommitted changes" in page.text


def test_the_commit_of_the_report_stands_beside_another_one_of_the_training() -> None:
    reported_by = {"commit": "abcdef" * 6, "clean": False}
    page = Page(render_evaluation(small_evaluation(verdict=replace(VERDICT, reported_by=reported_by))))
    told = "commit 0123456789ab; report by commit abcdefabcdef with uncommitted changes"
    assert told in " ".join(page.text.split())


def test_a_model_from_elsewhere_has_a_report_without_what_is_unknown() -> None:
    page = Page(render_evaluation(foreign_evaluation()))
    assert "Evaluation of a model from elsewhere" in page.text
    assert "No learning curves" in page.text
    assert "no commit known" in page.text
    sections = {section["id"] for section in page.all("section")}
    assert sections.isdisjoint({"identification", "layers"})
    assert {link["href"][1:] for link in page.all("a")} <= sections


def test_a_page_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "MAX_BYTES", 10**6)
    with pytest.raises(DataError, match=r"more than 1: lower report\.players"):
        render_evaluation(small_evaluation())


def test_a_verdict_is_kept_as_plain_values() -> None:
    verdict = replace(VERDICT, differences=[Difference("seed", "42", "1")])
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
