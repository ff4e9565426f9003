"""Model card of a verifier: Markdown with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from speaker_verification.deployment.verifier import CALIBRATION_TRIALS, Verifier
from speaker_verification.scoring.cross_validation import CROSS_VALIDATION, NUM_FOLDS

LIBRARY = "speaker-verification"
TAGS = ("speaker-verification", "speaker-recognition", "audio", "speech")

USAGE = """\
```python
from speaker_verification import Verifier

verifier = Verifier.from_pretrained("FOLDER")
compared = verifier.compare("enrolled.wav", "questioned.wav")
print(compared.accept, compared.llr, compared.error_rates)
```"""


def write_card(verifier: Verifier, licence: str) -> str:
    """Markdown of the card: metadata, use, corpora, error rates, calibration and limits.

    Args:
        verifier: verifier to describe.
        licence: licence of its model, by its name on the Hugging Face hub.
    """
    import yaml

    metadata = yaml.safe_dump(_metadata(verifier, licence), sort_keys=False, allow_unicode=True)
    sections = {
        "Use": [USAGE],
        "Model": list(_model(verifier)),
        "Corpora": list(_corpora(verifier)),
        "Error rates": list(_error_rates(verifier)),
        "Calibration": list(_calibration(verifier)),
        "Limits": list(_limits(verifier)),
    }
    blocks = [f"## {title}\n\n" + "\n\n".join(blocks) for title, blocks in sections.items()]
    title = " ".join(["Speaker verifier", verifier.origin.recipe]).strip()
    return f"---\n{metadata}---\n\n# {title}\n\n" + "\n\n".join(blocks) + "\n"


def _metadata(verifier: Verifier, licence: str) -> dict[str, Any]:
    """Front matter: what the hub shows, lists and searches."""
    scoring = verifier.settings.score.llr
    learnt = [corpus.name for corpus in verifier.origin.corpora if corpus.use != "trials"]
    metadata: dict[str, Any] = {
        "license": licence,
        "library_name": LIBRARY,
        "tags": list(TAGS),
        "datasets": list(dict.fromkeys(name.lower() for name in learnt)),
        "metrics": ["eer", "min_dcf"],
    }
    if encoder := verifier.origin.encoder:
        metadata["base_model"] = encoder
    results = [
        {
            "task": {"type": "speaker-verification", "name": "Speaker verification"},
            "dataset": {"type": trial_list, "name": trial_list},
            "metrics": [
                {"type": name, "name": title, "value": scorings[scoring][name]}
                for name, title in _metric_titles(scorings[scoring]).items()
            ],
        }
        for trial_list, scorings in verifier.metrics.items()
    ]
    return {**metadata, "model-index": [{"name": verifier.origin.recipe or "verifier", "results": results}]}


def _metric_titles(values: Mapping[str, Any]) -> dict[str, str]:
    costs = [name for name in values if name.startswith("min_dcf_p")]
    titles = {name: f"minDCF at P_target 0.{name.removeprefix('min_dcf_p')}" for name in costs}
    return {"eer": "EER in %", **titles}


def _model(verifier: Verifier) -> Iterator[str]:
    settings, origin = verifier.model.settings, verifier.origin
    yield _table(
        ("", ""),
        [
            ("recipe", origin.recipe or "unknown: the model comes from elsewhere"),
            ("encoder", origin.encoder or f"{verifier.model.frontend.config.model_type} of random weights"),
            ("layer aggregation", settings.layer_aggregation.kind),
            ("speaker network", f"{settings.speaker_network.kind}, {verifier.model.embedding_size} numbers"),
            ("scorings", ", ".join(verifier.calibration.scorings)),
            ("decisions by", verifier.settings.score.llr),
            ("made with", f"{LIBRARY} {origin.version}".strip()),
        ],
    )


def _corpora(verifier: Verifier) -> Iterator[str]:
    rows = [
        (corpus.use, corpus.name, ", ".join(corpus.subsets), corpus.licence)
        for corpus in verifier.origin.corpora
    ]
    yield _table(("used for", "corpus", "subsets", "licence"), rows)
    if all(corpus.use != "training" for corpus in verifier.origin.corpora):
        yield "The corpora that the model was trained on are not known here: ask its makers."
    yield "Pre-trained encoders come under licences and from corpora of their own."


def _error_rates(verifier: Verifier) -> Iterator[str]:
    rows = [
        (
            trial_list,
            scoring,
            f"{values['eer']:.2f}",
            "{:.2f} to {:.2f}".format(*values["eer_interval"]) if "eer_interval" in values else "",
            f"{values['num_target']:,}",
            f"{values['num_nontarget']:,}",
            str(values.get("num_speakers", "")),
        )
        for trial_list, scorings in verifier.metrics.items()
        for scoring, values in scorings.items()
    ]
    header = ("trial list", "scoring", "EER %", "95 % interval", "targets", "non-targets", "speakers")
    yield _table(header, rows)
    if CROSS_VALIDATION in verifier.metrics:
        yield (
            f"In {CROSS_VALIDATION} the trials of each of {NUM_FOLDS} groups of speakers are scored by "
            "cohort, scorings and calibration of the other speakers; this verifier's are of all speakers."
        )
    yield (
        "Intervals are resampled by speaker. The EER's threshold is found on the trials themselves; "
        "decisions take the thresholds below."
    )


def _calibration(verifier: Verifier) -> Iterator[str]:
    calibration, llr = verifier.calibration, verifier.settings.score.llr
    speakers = calibration.speakers
    if speakers == "cohort" and any(corpus.use == "calibration" for corpus in verifier.origin.corpora):
        speakers = "calibration set's"
    yield (
        f"Log-likelihood ratios are natural, of {llr}, fitted on {calibration.num_trials:,} trials between "
        f"the {speakers} speakers, drawn with replacement, at a prior of {calibration.prior:g}. "
        "At or above the threshold of an operating point the verifier accepts."
    )
    if calibration.adaptation is not None:
        what = {"centre": "centre", "coral": "centre and covariance (CORAL)"}[calibration.adaptation]
        yield f"Cohort and calibration trials have the {what} of the recordings for adaptation."
    rows = [
        (
            str(point),
            f"{point.threshold:.2f}",
            name,
            f"{100 * errors.miss_rate:.2f} ({errors.misses:,} of {errors.num_target:,})",
            f"{100 * errors.false_acceptance_rate:.3f} "
            f"({errors.false_acceptances:,} of {errors.num_nontarget:,})",
        )
        for point in verifier.operating_points
        for name, errors in verifier.error_rates(point).items()
    ]
    yield _table(("operating point", "LLR threshold", "measured on", "misses %", "false acceptances %"), rows)
    yield f"The {CALIBRATION_TRIALS} are those that the ratios were fitted on."
    for point in verifier.operating_points:
        if llr in (remarks := calibration.remarks(point)):
            yield f"{remarks[llr]}."


def _limits(verifier: Verifier) -> Iterator[str]:
    limits = verifier.settings.limits
    used = "all of it" if limits.max_seconds is None else f"the first {limits.max_seconds:g} s"
    yield (
        f"It takes recordings of {limits.least_seconds:g} s or more with {limits.least_speech_seconds:g} s "
        f"of speech, and uses {used}. Error rates hold for recordings like those of the trial lists: for "
        "other languages, channels, ages or lengths measure them, and calibrate, on recordings of your own "
        "(`speaker-verification build`). They are of trials between single recordings, also where several "
        "are enrolled. Nothing here detects synthetic, converted or replayed speech."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
