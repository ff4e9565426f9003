"""Pictures of docs/scoring.md: `python docs/pictures.py` writes docs/pictures/*.svg, in light and dark.

Synthetic embeddings go through the project's own scorings, calibration and metrics: speakers in four groups,
a part that all embeddings share, and variation between recordings that grows as they become shorter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri
from scipy.stats import gaussian_kde

from speaker_verification.scoring import (
    AffineCalibration,
    EmbeddingStore,
    OperatingPoint,
    actual_detection_cost,
    cohort_statistics,
    equal_error_rate,
    error_rates,
    min_detection_cost,
)
from speaker_verification.scoring.calibration_trials import draw_calibration_trials
from speaker_verification.scoring.centring import centre_and_normalise
from speaker_verification.scoring.cohort import Cohort
from speaker_verification.scoring.evaluation import fit_scorings, score_trials
from speaker_verification.scoring.settings import ScoreSettings

FOLDER = Path(__file__).parent / "pictures"
COLOURS = {
    "light": {
        "ink": "#323b46",
        "paper": "#ffffff",
        "target": "#0a7d91",
        "nontarget": "#c2571a",
        "line": "#7b3fa0",
    },
    "dark": {
        "ink": "#ced6dd",
        "paper": "#14181e",
        "target": "#3fb1c5",
        "nontarget": "#f0935c",
        "line": "#c79bea",
    },
}
WIDTH, GROUPS, SEED = 24, 4, 7
POINT = OperatingPoint(p_target=0.05)
HEIGHTS = {"road": 2.7, "det": 5.0}  # in inches, beside a width of 6


@dataclass(frozen=True)
class Example:
    """Scored trials between synthetic speakers, and what they were scored with."""

    store: EmbeddingStore
    trials: pd.DataFrame
    cohort: Cohort
    settings: ScoreSettings

    def split(self, scoring: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the target trials and of the non-target trials."""
        is_target = self.trials["label"] == 1
        return self.trials[scoring][is_target].to_numpy(), self.trials[scoring][~is_target].to_numpy()


def embed_synthetic_speakers(num_speakers: int, recordings: int, seed: int) -> EmbeddingStore:
    """Embeddings of recordings of 1 to 12 s; the shared part and the groups are those of SEED."""
    shared = np.random.default_rng(SEED)
    common, groups = 1.2 * shared.normal(size=WIDTH), shared.normal(size=(GROUPS, WIDTH))
    groups *= np.linspace(0, 1, GROUPS)[:, None]  # speakers of the first group are as different as can be
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), recordings)
    voices = groups[np.arange(num_speakers) % GROUPS] + rng.normal(size=(num_speakers, WIDTH))
    seconds = np.exp(rng.uniform(0, np.log(12), len(speakers)))
    variation = rng.normal(size=(len(speakers), WIDTH)) * (1.5 / seconds**0.4)[:, None]
    names = [f"{seed}-{speaker:03}" for speaker in speakers]
    utterances = pd.DataFrame(
        {
            "utterance_id": [f"{name}/{row:05}.wav" for row, name in enumerate(names)],
            "speaker_id": names,
            "duration_seconds": seconds,
        }
    )
    return EmbeddingStore((common + voices[speakers] + variation).astype(np.float32), utterances)


def score_example() -> Example:
    """Fit all scorings on one half of the speakers and score trials between the others."""
    settings = ScoreSettings(top_n=40, num_threads=1)
    cohort_set = embed_synthetic_speakers(num_speakers=300, recordings=6, seed=1)
    cohort = Cohort.of(cohort_set, settings.cohort, settings.centre)
    drawn = draw_calibration_trials(cohort_set.utterances["speaker_id"], 10_000, seed=SEED)
    calibration, fitted = fit_scorings(cohort_set, cohort, drawn, settings)
    store = embed_synthetic_speakers(num_speakers=120, recordings=6, seed=2)
    drawn = draw_calibration_trials(store.utterances["speaker_id"], 12_000, seed=SEED)
    ids = store.utterances["utterance_id"].to_numpy()
    trials = pd.DataFrame(
        {
            "trial_list": "synthetic",
            "label": drawn.labels,
            "enroll_id": ids[drawn.enroll_rows],
            "test_id": ids[drawn.test_rows],
        }
    )
    scores = score_trials(trials, store, cohort, calibration, fitted, settings)
    uncentred = centre_and_normalise(store.embeddings, np.zeros(WIDTH))
    cosines = np.einsum("te,te->t", uncentred[drawn.enroll_rows], uncentred[drawn.test_rows])
    return Example(store, scores.assign(uncentred=cosines), cohort, settings)


def draw_road(axes: Axes, colours: dict[str, str]) -> None:
    """The road from archives to a speaker model, and from two recordings to a decision."""
    boxes = {
        "archives": (10, 45, "archives\nof speech", "ink"),
        "pretrain": (37, 45, "pretrain\nencoder frozen", "nontarget"),
        "finetune": (64, 45, "finetune\nall together", "nontarget"),
        "lmft": (90, 45, "lmft\nlarge margin", "nontarget"),
        "embeddings": (37, 12, "two\nembeddings", "target"),
        "scores": (64, 12, "cosine,\nAS-norm, QMF", "target"),
        "decision": (90, 12, "likelihood\nratio, decision", "target"),
    }
    for x, y, text, colour in boxes.values():
        style = {
            "boxstyle": "round,pad=0.5",
            "edgecolor": colours[colour],
            "facecolor": "none",
            "linewidth": 1.4,
        }
        axes.text(x, y, text, ha="center", va="center", bbox=style, linespacing=1.4, fontsize=9.5)
    arrow = {"arrowstyle": "-|>", "color": colours["ink"], "lw": 1.1}
    for tail, head in (((18, 45), (26, 45)), ((48, 45), (54, 45)), ((74, 45), (80, 45))):
        axes.annotate("", head, tail, arrowprops=arrow)
    for tail, head in (((20, 12), (27.5, 12)), ((46.5, 12), (53, 12)), ((75, 12), (79, 12))):
        axes.annotate("", head, tail, arrowprops=arrow)
    axes.plot([90, 90, 37], [38, 28.5, 28.5], color=colours["ink"], lw=1.1)
    axes.annotate("", (37, 18), (37, 28.8), arrowprops=arrow)
    axes.text(63, 29.5, "speaker model", ha="center", va="bottom", fontsize=9.5)
    rng = np.random.default_rng(3)
    for y in (17, 7):
        x = np.linspace(0, 18, 46)
        heights = 3.2 * np.abs(np.sin(x / 2.9 + y)) * rng.uniform(0.35, 1, len(x)) + 0.3
        axes.vlines(x, y - heights, y + heights, color=colours["line"], lw=1.3)
    axes.text(9, -0.5, "two recordings", ha="center", va="top", fontsize=9.5)
    axes.set(xlim=(-2, 102), ylim=(-6, 52))
    axes.set_axis_off()


def draw_embeddings(axes: Axes, colours: dict[str, str], centred: bool) -> None:
    """Embeddings of five speakers in two dimensions, as they come or less their mean."""
    rng = np.random.default_rng(11)
    angles = np.array([0.2, 1.3, 2.6, 3.9, 5.2])
    voices = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shown = voices[:, None] + 0.13 * rng.normal(size=(5, 6, 2)) + [3.2, 2.4]
    centre = shown.mean(axis=(0, 1))
    shown = shown - centre if centred else shown
    for number, ends in enumerate(shown):
        shade = colours["target"] if number == 0 else colours["nontarget"] if number == 2 else colours["ink"]
        for x, y in ends:
            axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": shade, "alpha": 0.75})
    one, other = (ends.mean(axis=0) for ends in (shown[0], shown[2]))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    axes.set_title(f"cosine of the two coloured speakers: {cosine:.2f}")
    axes.set(xlim=(-1.6, 1.6) if centred else (-0.3, 4.7), ylim=(-1.4, 1.4) if centred else (-0.3, 3.9))
    axes.set_aspect("equal")
    axes.plot(0, 0, "o", color=colours["ink"], ms=4)
    axes.set_axis_off()


def draw_cohort(axes: Axes, colours: dict[str, str], example: Example) -> None:
    """Cohort cosines of two recordings, one of which is close to everybody."""
    centre, cohort = example.cohort.centre, example.cohort.embeddings
    settings, embeddings = example.settings, example.store.embeddings
    means, deviations = cohort_statistics(embeddings, cohort, settings.top_n, centre=centre)
    cosines = centre_and_normalise(embeddings, centre) @ centre_and_normalise(cohort, centre).T
    grid = np.linspace(-0.8, 0.95, 200)
    for row, colour, name in (
        (int(means.argmin()), "target", "close to nobody"),
        (int(means.argmax()), "nontarget", "close to many"),
    ):
        density = gaussian_kde(cosines[row])(grid)
        axes.plot(grid, density, color=colours[colour], label=f"a recording {name}")
        axes.fill_between(grid, density, color=colours[colour], alpha=0.15, lw=0)
        axes.axvline(means[row], ymax=0.8, color=colours[colour], ls="--", lw=1)
        normalised = (0.6 - means[row]) / deviations[row]
        axes.text(
            0.62,
            2.5 if colour == "target" else 2.2,
            f"{normalised:.1f}",
            color=colours[colour],
            weight="bold",
        )
    axes.axvline(0.6, color=colours["line"], lw=1.5)
    axes.text(0.58, 2.85, "a cosine of 0.6", color=colours["line"], ha="right")
    axes.text(0.62, 2.85, "normalised:", color=colours["ink"])
    axes.set(xlabel="cosine with a cohort speaker", ylim=(0, 3.2), yticks=[])
    axes.legend(loc="upper left", frameon=False, bbox_to_anchor=(0, 0.84))


def draw_errors(axes: Axes, colours: dict[str, str], example: Example) -> None:
    """Distributions of both classes, and the errors on either side of a threshold."""
    target, nontarget = example.split("as_norm")
    eer, threshold = equal_error_rate(example.trials["as_norm"], example.trials["label"])
    grid = np.linspace(-6, 13, 400)
    for scores, colour, is_wrong, name in (
        (nontarget, "nontarget", grid >= threshold, "non-target trials"),
        (target, "target", grid < threshold, "target trials"),
    ):
        density = gaussian_kde(scores)(grid)
        axes.plot(grid, density, color=colours[colour], label=name)
        axes.fill_between(grid, density, where=is_wrong, color=colours[colour], alpha=0.45, lw=0)
    axes.axvline(threshold, color=colours["ink"], lw=1, ls="--")
    top = 1.15 * axes.get_ylim()[1]
    axes.text(threshold - 0.2, top * 0.95, "reject", color=colours["ink"], ha="right")
    axes.text(threshold + 0.2, top * 0.95, f"accept   EER {eer:.1f} %", color=colours["ink"])
    axes.set(xlabel="AS-norm score", yticks=[], ylim=(0, top))
    axes.legend(loc="upper right", frameon=False, bbox_to_anchor=(1, 0.88))


def draw_det(axes: Axes, colours: dict[str, str], example: Example) -> None:
    """DET curves of four scorings with their EERs, and the least cost at one operating point."""
    styles = {"uncentred": ":", "cosine": "-.", "as_norm": "--", "qmf": "-"}
    names = {
        "uncentred": "cosine, not centred",
        "cosine": "cosine, centred",
        "as_norm": "AS-norm",
        "qmf": "QMF",
    }
    for (scoring, style), colour in zip(styles.items(), ("ink", "nontarget", "line", "target"), strict=True):
        scores, labels = example.trials[scoring].to_numpy(), example.trials["label"].to_numpy()
        fnr, fpr, thresholds = error_rates(scores, labels)
        drawn = (fnr > 0) & (fpr > 0) & (fnr < 1) & (fpr < 1)
        every = np.flatnonzero(drawn)[:: max(1, drawn.sum() // 150)]
        eer, _ = equal_error_rate(scores, labels)
        axes.plot(
            ndtri(fpr[every]),
            ndtri(fnr[every]),
            style,
            color=colours[colour],
            label=f"{names[scoring]}, EER {eer:.1f} %",
        )
        axes.plot(ndtri(eer / 100), ndtri(eer / 100), "o", color=colours[colour], ms=4)
        if scoring == "qmf":
            _, least = min_detection_cost(scores, labels, POINT.p_target)
            place = int(np.searchsorted(thresholds, least))
            x, y = ndtri(fpr[place]), ndtri(fnr[place])
            axes.plot(x, y, "s", color=colours[colour], ms=5)
            axes.annotate(
                "minDCF", (x, y), (-8, -12), textcoords="offset points", color=colours[colour], ha="right"
            )
    percent = (0.1, 0.5, 2, 5, 10, 20, 40)
    ticks = ndtri(np.array(percent) / 100)
    axes.plot([-3.1, 0.2], [-3.1, 0.2], color=colours["ink"], lw=0.5, alpha=0.5)
    for axis, what in ((axes.xaxis, "false acceptances, %"), (axes.yaxis, "misses, %")):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in percent])
        axis.set_label_text(what)
    axes.set(xlim=(-3.1, 0.2), ylim=(-3.1, 0.2))
    axes.legend(loc="upper right", frameon=False)


def draw_calibration(axes: Axes, colours: dict[str, str], example: Example) -> None:
    """The affine map from AS-norm scores to log-likelihood ratios, beside the ratio of counts in bins."""
    target, nontarget = example.split("as_norm")
    edges = np.linspace(-3, 8, 23)
    counts = [np.histogram(scores, edges)[0] for scores in (target, nontarget)]
    seen = np.minimum(*counts) >= 8
    middles = (edges[:-1] + edges[1:])[seen] / 2
    ratios = np.log(counts[0][seen] / len(target)) - np.log(counts[1][seen] / len(nontarget))
    fitted = AffineCalibration.fit(example.trials["as_norm"], example.trials["label"])
    grid = np.linspace(-2, 7, 2)
    axes.plot(grid, fitted.log_likelihood_ratio(grid), color=colours["line"], label="the calibration")
    axes.plot(
        middles,
        ratios,
        "o",
        color=colours["target"],
        ms=5,
        label="counted: log of the share of targets\nover that of non-targets",
    )
    axes.axhline(0, color=colours["ink"], lw=0.6, alpha=0.5)
    axes.set(xlabel="AS-norm score", ylabel="log-likelihood ratio")
    axes.legend(loc="upper left", frameon=False)


def draw_thresholds(axes: Axes, colours: dict[str, str], example: Example) -> None:
    """Log-likelihood ratios of both classes and the Bayes thresholds of three operating points."""
    target, nontarget = example.split("llr")
    bins = np.linspace(-14, 14, 57)
    axes.hist(nontarget, bins, color=colours["nontarget"], alpha=0.5, label="non-target trials")
    axes.hist(target, bins, color=colours["target"], alpha=0.5, label="target trials")
    top = axes.get_ylim()[1]
    for number, p_target in enumerate((0.5, 0.05, 0.01)):
        threshold = OperatingPoint(p_target).threshold
        height = 1.22 - 0.09 * number
        axes.axvline(threshold, ymax=(height + 0.06) / 1.32, color=colours["ink"], lw=1, ls="--")
        axes.text(
            threshold + 0.25,
            top * height,
            f"P_target {p_target:g}: accept from {threshold:.2f}",
            color=colours["ink"],
        )
    axes.set(xlabel="log-likelihood ratio (QMF)", yticks=[], ylim=(0, top * 1.32))
    axes.legend(loc="upper left", frameon=False)


def draw_cost(axes: Axes, colours: dict[str, str], example: Example) -> None:
    """Detection cost over the threshold: the least, and those of a good and of a shifted calibration."""
    labels = example.trials["label"].to_numpy()
    llrs = example.trials["llr"].to_numpy()
    fnr, fpr, thresholds = error_rates(llrs, labels)
    grid = np.linspace(-4, 9, 200)
    costs = np.interp(grid, thresholds, POINT.cost(fnr, fpr))
    axes.plot(grid, costs, color=colours["line"])
    least, best = min_detection_cost(llrs, labels, POINT.p_target)
    for x, cost, colour, name, offset in (
        (best, least, "ink", f"minDCF: {least:.2f}", (4, -16)),
        (
            POINT.threshold,
            actual_detection_cost(llrs, labels, POINT.p_target),
            "target",
            "actual DCF",
            (-8, -16),
        ),
        (
            POINT.threshold - 1.5,
            actual_detection_cost(llrs + 1.5, labels, POINT.p_target),
            "nontarget",
            "actual DCF,\nratios 1.5 too high",
            (-8, -12),
        ),
    ):
        text = name if name.startswith("min") else f"{name}: {cost:.2f}"
        axes.plot(x, cost, "o", color=colours[colour])
        side = "left" if name.startswith("min") else "right"
        axes.annotate(text, (x, cost), offset, textcoords="offset points", color=colours[colour], ha=side)
    axes.axhline(1, color=colours["ink"], lw=0.6, alpha=0.5)
    axes.text(9, 1.02, "rejecting everybody", color=colours["ink"], ha="right")
    axes.set(
        xlabel="threshold on the log-likelihood ratio",
        ylabel="detection cost, P_target 0.05",
        ylim=(0, 1.6),
        xlim=(-4, 9),
    )


def draw_cllr(axes: Axes, colours: dict[str, str]) -> None:
    """Cost in bits of a log-likelihood ratio, by the class of the trial."""
    llr = np.linspace(-6, 6, 121)
    axes.plot(llr, np.logaddexp(0, -llr) / np.log(2), color=colours["target"], label="target trial")
    axes.plot(llr, np.logaddexp(0, llr) / np.log(2), color=colours["nontarget"], label="non-target trial")
    axes.plot(0, 1, "o", color=colours["ink"])
    axes.annotate(
        "“I do not know”: 1 bit",
        (0, 1),
        (0, 60),
        textcoords="offset points",
        color=colours["ink"],
        ha="center",
        arrowprops={"arrowstyle": "-", "color": colours["ink"], "lw": 0.6},
    )
    axes.set(xlabel="log-likelihood ratio", ylabel="cost, bits", ylim=(0, 9))
    axes.legend(loc="upper center", frameon=False)


def pictures() -> dict[str, Callable[[Axes, dict[str, str]], None]]:
    """The drawings by name."""
    example = score_example()
    return {
        "road": draw_road,
        "embeddings": lambda axes, colours: draw_embeddings(axes, colours, centred=False),
        "embeddings_centred": lambda axes, colours: draw_embeddings(axes, colours, centred=True),
        "cohort": lambda axes, colours: draw_cohort(axes, colours, example),
        "errors": lambda axes, colours: draw_errors(axes, colours, example),
        "det": lambda axes, colours: draw_det(axes, colours, example),
        "calibration": lambda axes, colours: draw_calibration(axes, colours, example),
        "thresholds": lambda axes, colours: draw_thresholds(axes, colours, example),
        "cost": lambda axes, colours: draw_cost(axes, colours, example),
        "cllr": draw_cllr,
    }


def write_pictures(folder: Path) -> None:
    """Write every picture in light and dark, with text as text and without a date."""
    for name, draw in pictures().items():
        for scheme, colours in COLOURS.items():
            style = {
                "axes.edgecolor": colours["ink"],
                "axes.facecolor": colours["paper"],
                "axes.labelcolor": colours["ink"],
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.titlesize": 10.5,
                "figure.facecolor": colours["paper"],
                "font.size": 10.5,
                "legend.labelcolor": colours["ink"],
                "svg.fonttype": "none",
                "svg.hashsalt": name,
                "text.color": colours["ink"],
                "xtick.color": colours["ink"],
                "ytick.color": colours["ink"],
            }
            with mpl.rc_context(style):
                figure = Figure(figsize=(6, HEIGHTS.get(name, 3.4)), layout="constrained")
                draw(figure.subplots(), colours)
                suffix = ".dark.svg" if scheme == "dark" else ".svg"
                figure.savefig(folder / f"{name}{suffix}", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    write_pictures(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
