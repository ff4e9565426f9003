"""Largest differences between the ways from recordings to a decision, and from the scores table.

    python -m benchmarks.verifier_agreement VERIFIER RECORDINGS [--pairs 20] [--results DATA_ROOT]

VERIFIER is the folder of a verifier, RECORDINGS a folder with a folder of recordings for each speaker, of
which pieces of 1, 7 and 30 s are cut. They are compared by Verifier.compare, by the model in MLflow as its
server calls it, by the commands `verify` and `score`, and by the ONNX export; the differences are those from
Verifier.compare. With the data root of the run that packaged the verifier, every trial of its scores table is
scored anew from the embeddings, and some hundreds from the recordings.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from benchmarks.timing import say
from tests.support.agreement import compared_in_all_ways, write_pairs

from speaker_verification.deployment.proof import recording_deviations, score_deviations
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.scoring.embeddings import EmbeddingStore


def main() -> None:
    arguments = _parse()
    verifier = Verifier.from_pretrained(arguments.verifier)
    with TemporaryDirectory() as folder:
        workspace = Path(folder, "workspace")
        pieces = Path(folder, "pieces")
        workspace.mkdir()
        pieces.mkdir()
        pairs = write_pairs(arguments.recordings, pieces, arguments.pairs)
        # A piece of 1 s may hold less speech than a verifier asks for.
        limits = verifier.settings.limits.model_copy(update={"least_speech_seconds": 0.0})
        lenient = replace(verifier, settings=verifier.settings.model_copy(update={"limits": limits}))
        lenient.save_pretrained(Path(folder, "verifier"))
        ways = compared_in_all_ways(Path(folder, "verifier"), pairs, workspace)
    first, expected = next(iter(ways.items()))
    differences = {way: (found - expected[list(found)]).abs().max() for way, found in ways.items()}
    say(f"{len(pairs)} pairs, {expected['accept'].sum():.0f} accepted; differences from {first}")
    say(pd.DataFrame(differences).T.iloc[1:].to_string(float_format="{:.2g}".format, na_rep=""))
    if arguments.results is not None:
        _compare_with_table(verifier, arguments.results, arguments.trials)


def _compare_with_table(verifier: Verifier, results: Path, num_trials: int) -> None:
    output = results / "07_model_output"
    scores = pd.read_parquet(max(output.glob("scores.parquet/*/scores.parquet")))
    store = EmbeddingStore.read(max(output.glob("embeddings/*/embeddings")), results)
    say(f"differences from the scores table: {len(scores)} trials from their embeddings")
    say(_line(score_deviations(verifier, scores, store, len(scores))))
    heard = recording_deviations(verifier, scores, store, num_trials)
    say(f"{num_trials} of them from their recordings")
    say("the recordings are gone" if heard is None else _line(heard))


def _line(deviations: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2g}" for name, value in deviations.items())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verifier", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--results", type=Path, help="data root of the run that packaged the verifier")
    parser.add_argument("--trials", type=int, default=300, help="trials scored from their recordings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
