"""Command `speaker-verification`: import models, build verifiers; compare, embed, score, enrol, identify.

Heavy packages are imported by the functions that need them, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speaker_verification.common.errors import DataError, ParameterError, UserError, listed

if TYPE_CHECKING:
    import pandas as pd

    from speaker_verification.deployment.comparison import Comparison
    from speaker_verification.deployment.recordings import Recording, RecordingLimits
    from speaker_verification.deployment.verifier import Verifier
    from speaker_verification.scoring.embeddings import EmbeddingStore

Result = TypeVar("Result")

PROGRAM = "speaker-verification"
REJECTED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes
NOBODY = "nobody who is enrolled"
CACHE_SUFFIX = ".embeddings.sqlite"  # of the file beside the scores
SIDES = ("enrol", "test")  # columns of a list of pairs


def main(
    arguments: Sequence[str] | None = None, load_verifier: Callable[[str, Any], Verifier] | None = None
) -> int:
    """Run the command and return its exit code: 0, 1 for a rejection under --exit-code, 2 for bad input.

    Args:
        arguments: arguments of the command line; None for those of the process.
        load_verifier: function of the value of --model and a device; None takes a folder.
    """
    options = _parser().parse_args(arguments)
    options.load_verifier = load_verifier or _from_folder
    try:
        return int(options.run(options))
    except (UserError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: error: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="Compare voices in audio files.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    verify = commands.add_parser("verify", help="compare a recording with one or several of one speaker")
    verify.set_defaults(run=_verify)
    verify.add_argument("enrol", nargs="+", metavar="ENROL", help="recordings of the claimed speaker")
    verify.add_argument("test", metavar="TEST", help="recording in question")
    verify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verify.add_argument("--exit-code", action="store_true", help="exit with 0 to accept, 1 to reject")

    embed = commands.add_parser("embed", help="write embeddings of recordings")
    embed.set_defaults(run=_embed)
    embed.add_argument("files", nargs="+", metavar="FILE")
    embed.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="OUT.npy: (files, width) float32; OUT.parquet: with names, durations and the model's digest",
    )

    score = commands.add_parser("score", help="score pairs of recordings")
    score.set_defaults(run=_score)
    score.add_argument(
        "pairs",
        type=Path,
        metavar="PAIRS.csv",
        help="columns enrol and test, with paths relative to its folder; others are carried over",
    )
    score.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="SCORES.csv",
        help=f"the pairs with their scores; embeddings are kept beside it (SCORES.csv{CACHE_SUFFIX})",
    )

    enrol = commands.add_parser("enrol", help="enrol recordings of a speaker in a store")
    enrol.set_defaults(run=_enrol)
    enrol.add_argument("files", nargs="+", metavar="FILE")
    enrol.add_argument("--speaker", required=True, metavar="NAME", help="name of the speaker")

    identify = commands.add_parser("identify", help="find the enrolled speaker of a recording, or nobody")
    identify.set_defaults(run=_identify)
    identify.add_argument("test", metavar="TEST", help="recording in question")
    identify.add_argument("--top", type=int, default=10, help="number of candidates (default 10)")
    identify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    identify.add_argument("--exit-code", action="store_true", help="exit with 0 for a speaker, 1 for nobody")

    store = commands.add_parser("store", help="list, remove, update or embed anew what is enrolled")
    actions = store.add_subparsers(required=True, metavar="ACTION")
    list_ = actions.add_parser("list", help="print the enrolled speakers as CSV")
    list_.set_defaults(run=_list)
    remove = actions.add_parser("remove", help="remove speakers, of whom nothing is left in the store")
    remove.set_defaults(run=_remove)
    remove.add_argument("speakers", nargs="+", metavar="NAME")
    update = actions.add_parser("update", help="take another calibration or cohort of the same model")
    update.set_defaults(run=_update)
    re_embed = actions.add_parser("re-embed", help="embed all enrolled recordings anew by another verifier")
    re_embed.set_defaults(run=_re_embed)
    re_embed.add_argument(
        "--drop-missing", action="store_true", help="remove recordings whose files are gone or changed"
    )

    build = commands.add_parser("build", help="make a verifier of a model and recordings of known speakers")
    build.set_defaults(run=_build)
    build.add_argument(
        "source", metavar="MODEL", help="saved model, checkpoint of the public codes, or another verifier"
    )
    build.add_argument(
        "recordings",
        type=Path,
        metavar="RECORDINGS",
        help="table with columns file, speaker and maybe session; or a folder of SPEAKER/FILE",
    )
    build.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="verifier's folder")
    build.add_argument(
        "--settings", type=Path, metavar="FILE", help="excerpts, scorings and limits, as a settings.json"
    )
    build.add_argument("--corpus", default="recordings", help="name of the recordings on the model card")
    build.add_argument("--licence", default="other", help="licence of the model on its card")
    build.add_argument("--drop-refused", action="store_true", help="leave out recordings that are refused")

    import_ = commands.add_parser(
        "import", help="save a checkpoint of public code as a model of this project"
    )
    import_.set_defaults(run=_import)
    import_.add_argument(
        "source", type=Path, metavar="CHECKPOINT", help="file, or a folder of LAP or wespeaker"
    )
    import_.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="model's folder")
    import_.add_argument(
        "--encoder",
        metavar="NAME",
        help="hub name or folder of the encoder's configuration (default: inferred from the checkpoint)",
    )
    import_.add_argument(
        "--lora-alpha",
        type=float,
        help="scale of low-rank updates that are not merged (default: wespeaker's config.yaml, or 128)",
    )

    for command in (enrol, identify, list_, remove, update, re_embed):
        command.add_argument(
            "--store", type=Path, required=True, metavar="FOLDER", help="folder of the enrolled speakers"
        )
    for command in (verify, score):
        command.add_argument(
            "--prior", type=float, help="probability of one speaker before the comparison, for `probability`"
        )
    for command in (verify, embed, score, enrol, identify, update, re_embed):
        command.add_argument(
            "--model", required=True, metavar="MODEL", help="verifier: a folder, or a URI of MLflow"
        )
    for command in (verify, embed, score, enrol, identify, re_embed, build):
        command.add_argument("--device", default="auto", help="auto (default), cpu or cuda:N")
        command.add_argument(
            "--max-seconds", type=float, help="seconds of a recording that are used, from its start"
        )
        command.add_argument(
            "--least-speech-seconds", type=float, help="least speech in a recording, where it is measured"
        )
    return parser


def _verify(options: argparse.Namespace) -> int:
    from speaker_verification.deployment.recordings import read_recording

    names = [*options.enrol, options.test]
    verifier, limits = _load(options, names)
    *enrol, test = _of_each(names, lambda name: read_recording(name, limits))
    comparison = verifier.compare(enrol, test, prior=options.prior)
    if options.json:
        sides = {"enrol": [_facts(recording) for recording in enrol], "test": _facts(test)}
        values = {**comparison.scores, **comparison.to_dict(), **sides}
        sys.stdout.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
    else:
        _print_rows(list(_rows(comparison, verifier)))
    return REJECTED if options.exit_code and not comparison.accept else 0


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    sys.stdout.writelines(f"{name:{width}}  {value}\n" for name, value in rows)


def _rows(comparison: Comparison, verifier: Verifier) -> Iterator[tuple[str, str]]:
    point = comparison.operating_point
    for name, score in comparison.scores.items():
        yield name, f"{score:.4f}"
    yield "llr", f"{comparison.llr:.4f}"
    yield "probability", f"{comparison.probability:.4g} at a prior of {comparison.prior:g}"
    decision, side = ("accept", "reaches") if comparison.accept else ("reject", "is below")
    yield "decision", f"{decision}: llr {side} {point.threshold:.4f} ({point})"
    for trial_list, errors in comparison.error_rates.items():
        misses, false_acceptances = 100 * errors.miss_rate, 100 * errors.false_acceptance_rate
        yield f"errors on {trial_list}", f"{misses:.2f} % misses, {false_acceptances:.2f} % false acceptances"
    for corpus in verifier.origin.corpora:
        if corpus.use == "training":
            yield "trained on", f"{corpus.name} ({corpus.licence})"
    for remark in comparison.remarks:
        yield "remark", remark


def _remarks(recordings: Sequence[Recording]) -> Iterator[tuple[str, str]]:
    for recording in recordings:
        for remark in recording.remarks:
            yield "remark", f"{recording.name}: {remark}"


def _facts(recording: Recording) -> dict[str, Any]:
    return {name: value for name, value in vars(recording).items() if name != "waveform"}


def _embed(options: argparse.Namespace) -> int:
    import numpy as np
    import pandas as pd

    from speaker_verification.common.atomic import atomic_write
    from speaker_verification.deployment.recordings import read_recording

    if options.output.suffix not in (".npy", ".parquet"):
        raise ParameterError(f"'{options.output}': give a name that ends in .npy or .parquet")
    verifier, limits = _load(options, options.files)

    def embed(file: str) -> tuple[dict[str, Any], np.ndarray]:
        recording = read_recording(file, limits)
        return _facts(recording), verifier.embed([recording]).embeddings[0]

    facts, embeddings = zip(*_of_each(options.files, embed, "embed"), strict=True)
    with atomic_write(options.output) as part:
        if options.output.suffix == ".npy":
            with part.open("wb") as file:
                np.save(file, np.stack(embeddings))
        else:
            table = pd.DataFrame(facts).assign(model=verifier.weights, embedding=embeddings)
            table.to_parquet(part, index=False)
    return 0


def _score(options: argparse.Namespace) -> int:
    import numpy as np
    from scipy.special import expit, logit

    from speaker_verification.common.atomic import atomic_write
    from speaker_verification.scoring.embeddings import EmbeddingStore
    from speaker_verification.scoring.metrics import OperatingPoint

    pairs = _read_pairs(options.pairs)
    sides = [[str(options.pairs.parent / name) for name in pairs[side]] for side in SIDES]
    files = list(dict.fromkeys(sides[0] + sides[1]))
    verifier, limits = _load(options, files)
    point = verifier.operating_points[0]
    verifier.calibration.check_reach(verifier.settings.score.llr, point)
    prior = point.p_target if options.prior is None else OperatingPoint(options.prior).p_target
    cache_file = options.output.with_name(options.output.name + CACHE_SUFFIX)
    with _embedding_once(cache_file, verifier, limits) as embed:
        store = EmbeddingStore.joined(_of_each(files, embed, "embed"))
    row_of = {file: row for row, file in enumerate(files)}
    rows = (np.array([row_of[file] for file in side]) for side in sides)
    scores = verifier.score(store, *rows)
    llr = scores["llr"]
    decisions = {"probability": expit(llr + logit(prior)), "accept": (llr >= point.threshold).astype(int)}
    with atomic_write(options.output) as part:
        pairs.assign(**scores, **decisions).to_csv(part, index=False)
    return 0


@contextmanager
def _embedding_once(
    cache_file: Path, verifier: Verifier, limits: RecordingLimits
) -> Iterator[Callable[[str], EmbeddingStore]]:
    """Function that embeds a file, or finds its embedding where an earlier call has kept it."""
    from speaker_verification.common.checksums import sha256_of
    from speaker_verification.deployment.embedding_cache import EmbeddingCache
    from speaker_verification.deployment.fingerprint import embedding_part
    from speaker_verification.deployment.recordings import read_recording

    with EmbeddingCache.opened(cache_file, verifier.weights) as cache:

        def embed(file: str) -> EmbeddingStore:
            key = f"{sha256_of(file)} {embedding_part(verifier.fingerprint)} {limits.model_dump_json()}"
            return cache.find_or_keep(key, lambda: verifier.embed([read_recording(file, limits)]))

        yield embed


def _read_pairs(path: Path) -> pd.DataFrame:
    """Table of pairs, all columns as text.

    Raises:
        DataError: it is no such table.
    """
    import pandas as pd

    try:
        pairs = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # of the encoding, or of pandas' parser
        raise DataError(f"'{path}' is no CSV file of pairs: {error}") from error
    if missing := [side for side in SIDES if side not in pairs]:
        raise DataError(f"'{path}' has no column '{missing[0]}' among {', '.join(map(str, pairs))}: add it")
    if pairs.empty:
        raise DataError(f"'{path}' holds no pairs: write one a line")
    return pairs


def _enrol(options: argparse.Namespace) -> int:
    from speaker_verification.deployment.enrolment_store import EnrolledRecording, EnrolmentStore
    from speaker_verification.deployment.identification import side_scorer
    from speaker_verification.deployment.recordings import read_recording

    verifier, limits = _load(options, options.files)
    scorer = side_scorer(verifier)
    store = None
    if options.store.exists():
        store = EnrolmentStore.open(options.store, verifier.fingerprint, scorer)
    recordings = _of_each(options.files, lambda file: read_recording(file, limits), "read")
    embeddings = verifier.embed(recordings).embeddings
    enrolled = [
        EnrolledRecording.of(file, recording.seconds)
        for file, recording in zip(options.files, recordings, strict=True)
    ]
    if store is None:
        store = EnrolmentStore.create(options.store, verifier.fingerprint, scorer)
    remarks = store.add(options.speaker, embeddings, enrolled)
    number = len(store.embeddings_of(options.speaker))
    rows = [("enrolled", f"'{options.speaker}' by {number} recordings, among {len(store)} speakers")]
    _print_rows([*rows, *_remarks(recordings), *(("remark", remark) for remark in remarks)])
    return 0


def _identify(options: argparse.Namespace) -> int:
    from speaker_verification.deployment.enrolment_store import EnrolmentStore
    from speaker_verification.deployment.identification import identify, side_scorer
    from speaker_verification.deployment.recordings import read_recording

    verifier, limits = _load(options, [options.test])
    store = EnrolmentStore.open(options.store, verifier.fingerprint, side_scorer(verifier))
    test = read_recording(options.test, limits)
    point = verifier.operating_points[0]
    embedding = verifier.embed([test]).embeddings[0]
    found = identify(embedding, store, point, seconds=test.seconds, top=options.top)
    if options.json:
        values = {**found.to_dict(), "fingerprint": store.fingerprint, "test": _facts(test)}
        sys.stdout.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
    else:
        rows = [("speaker", found.speaker or NOBODY)]
        for place, candidate in enumerate(found.candidates, start=1):
            margin = "" if candidate.margin is None else f", {candidate.margin:.4f} above the next"
            rows.append(
                (str(place), f"{candidate.speaker}: llr {candidate.log_likelihood_ratio:.4f}{margin}")
            )
        rows.append(("threshold", f"llr {point.threshold:.4f} ({point}), {found.num_enrolled} enrolled"))
        _print_rows([*rows, *_remarks([test])])
    return REJECTED if options.exit_code and found.speaker is None else 0


def _list(options: argparse.Namespace) -> int:
    from speaker_verification.deployment.enrolment_store import EnrolmentStore

    EnrolmentStore.open(options.store).speakers().to_csv(sys.stdout, index=False)
    return 0


def _remove(options: argparse.Namespace) -> int:
    from speaker_verification.deployment.enrolment_store import EnrolmentStore

    EnrolmentStore.open(options.store).remove(*options.speakers)
    return 0


def _update(options: argparse.Namespace) -> int:
    from speaker_verification.deployment.enrolment_store import EnrolmentStore
    from speaker_verification.deployment.identification import side_scorer

    verifier = options.load_verifier(options.model, "cpu")  # whose model is not used
    EnrolmentStore.open(options.store).update(verifier.fingerprint, side_scorer(verifier))
    return 0


def _re_embed(options: argparse.Namespace) -> int:
    import numpy as np

    from speaker_verification.deployment.enrolment_parts import PARTS_FOLDER
    from speaker_verification.deployment.enrolment_store import EnrolmentStore
    from speaker_verification.deployment.identification import side_scorer

    verifier, limits = _load(options, [])
    store = EnrolmentStore.open(options.store)
    cache_file = options.store / PARTS_FOLDER / f"re-embed{CACHE_SUFFIX}"  # goes with the next change
    with _embedding_once(cache_file, verifier, limits) as embed:
        remarks = store.re_embed(
            lambda files: np.concatenate([found.embeddings for found in _of_each(files, embed, "embed")]),
            verifier.fingerprint,
            side_scorer(verifier),
            options.drop_missing,
        )
    if remarks:
        _print_rows([("remark", remark) for remark in remarks])
    return 0


def _build(options: argparse.Namespace) -> int:
    from speaker_verification.common.device import resolve_device
    from speaker_verification.deployment.building import build_verifier
    from speaker_verification.deployment.settings import VerifierSettings
    from speaker_verification.models.weight_files import read_json
    from speaker_verification.scoring.summary import format_table

    values = {} if options.settings is None else read_json(options.settings)
    limits = {**values.get("limits", {}), **_given_limits(options)}
    verifier = build_verifier(
        options.source,
        options.recordings,
        options.output,
        VerifierSettings.parse({**values, "limits": limits}, ""),
        corpus=options.corpus,
        licence=options.licence,
        drop_refused=options.drop_refused,
        device=resolve_device(options.device),
    )
    sys.stdout.write(format_table(verifier.metrics))
    _print_rows([("verifier", str(options.output)), ("fingerprint", verifier.fingerprint)])
    return 0


def _import(options: argparse.Namespace) -> int:
    output = options.output.expanduser()
    if output.exists():
        raise DataError(f"'{output}' is there already: name another folder")
    from speaker_verification.common.atomic import atomic_write
    from speaker_verification.models import import_checkpoint
    from speaker_verification.models.pruning.kept_units import KEPT_UNITS

    model = import_checkpoint(options.source.expanduser(), options.encoder, options.lora_alpha)
    with atomic_write(output) as part:
        model.save_pretrained(part)
    frontend, settings = model.frontend, model.settings
    pruned = ", pruned" if hasattr(frontend.config, KEPT_UNITS) else ""
    blocks = f"{frontend.num_blocks} blocks of {frontend.width} channels{pruned}"
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    _print_rows(
        [
            ("model", str(output)),
            ("encoder", f"{frontend.config.model_type}, {blocks}"),
            ("layer aggregation", settings.layer_aggregation.kind),
            ("speaker network", f"{settings.speaker_network.kind}, embeddings of {model.embedding_size}"),
            ("parameters", f"{millions:.1f} million"),
        ]
    )
    return 0


def _load(options: argparse.Namespace, files: Sequence[str]) -> tuple[Verifier, RecordingLimits]:
    """Verifier, and the limits of recordings that it and the options set.

    Raises:
        UserError: files are missing, or the model or an option cannot be used.
    """
    if missing := [file for file in files if not Path(file).expanduser().is_file()]:
        raise DataError(f"no such file: {listed(missing)}")
    from speaker_verification.common.device import resolve_device
    from speaker_verification.deployment.recordings import RecordingLimits

    verifier: Verifier = options.load_verifier(options.model, resolve_device(options.device))
    limits = {**verifier.settings.limits.model_dump(), **_given_limits(options)}
    return verifier, RecordingLimits.parse(limits, "")


def _given_limits(options: argparse.Namespace) -> dict[str, float]:
    """Limits of recordings that the options set."""
    names = ("max_seconds", "least_speech_seconds")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _from_folder(folder: str, device: Any) -> Verifier:
    from speaker_verification.deployment.verifier import Verifier

    return Verifier.from_pretrained(folder, device)


def _of_each(files: Sequence[str], use: Callable[[str], Result], label: str = "") -> list[Result]:
    """Results of a function of each file, whose progress is shown under a label; "" shows none.

    Raises:
        DataError: recordings are refused; the function was called with all others by then.
    """
    from speaker_verification.common.progress import progress_bar
    from speaker_verification.deployment.recordings import RecordingError

    results, refused = [], []
    with progress_bar(label, len(files)) if label else nullcontext(lambda: None) as advance:
        for file in files:
            try:
                results.append(use(file))
            except RecordingError as error:
                refused.append(error)
            advance()
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise DataError(f"{len(refused)} of {len(files)} recordings are refused: {listed(refused, '; ')}")
    return results


if __name__ == "__main__":
    sys.exit(main())
