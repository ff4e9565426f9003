"""Ways from two recordings to a decision, and pairs of recordings to compare them by."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import mlflow.pyfunc
import numpy as np
import onnxruntime
import pandas as pd
import soundfile
from mlflow.models import Model
from mlflow.pyfunc.scoring_server import invocations

from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.deployment.command import main
from speaker_verification.deployment.onnx_export import export_onnx
from speaker_verification.deployment.recordings import read_recording
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.pipelines.package.mlflow_model import save_mlflow_model
from speaker_verification.scoring import Calibration

LENGTHS = ((1, 7), (7, 30), (30, 1), (1, 1), (7, 7), (30, 30))  # of a pair's recordings, in s
NUMBERS = ("cosine", "as_norm", "qmf", "llr", "probability", "accept")
COSINE_LLR = "llr of the cosine"


class Pair(NamedTuple):
    """Two recordings."""

    enrol: Path
    test: Path


def write_pairs(recordings: Path, folder: Path, num_pairs: int) -> list[Pair]:
    """Cut recordings of 1, 7 and 30 s, and pair them: in turn of one speaker, and of two.

    Args:
        recordings: folder with a folder of recordings for each speaker; a speaker's are joined where they
            are short, and repeated where there are less than 30 s.
        folder: existing folder for the pieces.
        num_pairs: number of pairs.
    """
    speakers = sorted(path for path in recordings.iterdir() if path.is_dir())
    pairs = []
    for number, lengths in enumerate(islice(cycle(LENGTHS), num_pairs)):
        one = speakers[number % len(speakers)]
        other = one if number % 2 == 0 else speakers[(number + 1) % len(speakers)]
        sides = []
        for side, speaker, seconds in zip(Pair._fields, (one, other), lengths, strict=True):
            file = folder / f"{number} {side}.wav"
            start = 5 * number + (40 if side == "test" else 0)
            soundfile.write(file, _joined(speaker, start, seconds), SAMPLE_RATE)
            sides.append(file)
        pairs.append(Pair(*sides))
    return pairs


def _joined(speaker: Path, start: int, seconds: int) -> np.ndarray:
    """Seconds of a speaker's joined recordings, which begin anew at their end."""
    whole = np.concatenate([read_audio(file) for file in sorted(speaker.rglob("*.wav"))])
    return np.resize(np.roll(whole, -start * SAMPLE_RATE), seconds * SAMPLE_RATE)


def compared_in_all_ways(folder: Path, pairs: Sequence[Pair], workspace: Path) -> dict[str, pd.DataFrame]:
    """Columns of scores and decisions on the pairs (pairs,), by the way that gave them.

    Args:
        folder: verifier.
        pairs: recordings to compare.
        workspace: existing folder for exports.
    """
    verifier = Verifier.from_pretrained(folder)
    return {
        "Verifier.compare": by_compare(verifier, pairs),
        "MLflow": by_mlflow(folder, pairs, workspace),
        "command verify": by_verify(verifier, pairs),
        "command score": by_score(verifier, pairs, workspace),
        "ONNX": by_onnx(verifier, pairs, workspace),
    }


def by_compare(verifier: Verifier, pairs: Sequence[Pair]) -> pd.DataFrame:
    compared = [verifier.compare(*pair) for pair in pairs]
    table = _table([{**one.scores, **one.to_dict()} for one in compared])
    of_cosine = verifier.calibration.log_likelihood_ratio("cosine", table["cosine"].to_numpy())
    return table.assign(**{COSINE_LLR: of_cosine})


def by_mlflow(folder: Path, pairs: Sequence[Pair], workspace: Path) -> pd.DataFrame:
    """By the function that MLflow's server calls for each request."""
    save_mlflow_model(folder, workspace / "mlflow", Model())
    model = mlflow.pyfunc.load_model(str(workspace / "mlflow"))
    rows = [
        {side: base64.b64encode(file.read_bytes()).decode() for side, file in pair._asdict().items()}
        for pair in pairs
    ]
    body = json.dumps({"dataframe_records": rows}).encode()
    response = invocations(body, "application/json", model, model.metadata.get_input_schema())
    assert response.status == 200, response.response
    answers = json.loads(response.response)["predictions"]
    return _table([{**answer["scores"], **answer} for answer in answers])


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def by_verify(verifier: Verifier, pairs: Sequence[Pair]) -> pd.DataFrame:
    answers = []
    for pair in pairs:
        with redirect_stdout(io.StringIO()) as printed:
            _run(verifier, "verify", *pair, "--json")
        answers.append(json.loads(printed.getvalue()))
    return _table(answers)


def by_score(verifier: Verifier, pairs: Sequence[Pair], workspace: Path) -> pd.DataFrame:
    pd.DataFrame(pairs).to_csv(workspace / "pairs.csv", index=False)
    _run(verifier, "score", workspace / "pairs.csv", "--output", workspace / "scores.csv")
    return _table(pd.read_csv(workspace / "scores.csv").to_dict("records"))


def by_onnx(verifier: Verifier, pairs: Sequence[Pair], workspace: Path) -> pd.DataFrame:
    """By the graph's embeddings, and its calibration of the cosine."""
    session = onnxruntime.InferenceSession(str(export_onnx(verifier, workspace / "onnx")))
    calibration = Calibration.from_dict(
        json.loads(session.get_modelmeta().custom_metadata_map["calibration"])
    )
    sides = [
        np.concatenate([_onnx_embedding(session, file, verifier) for file in side])
        for side in zip(*pairs, strict=True)
    ]
    centred = [side.astype(np.float64) - np.asarray(calibration.centre) for side in sides]  # (pairs, E) each
    enrol, test = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in centred)
    return pd.DataFrame({"cosine": (enrol * test).sum(axis=1), COSINE_LLR: calibration.compare(*sides)})


def _onnx_embedding(session: onnxruntime.InferenceSession, file: Path, verifier: Verifier) -> np.ndarray:
    waveform = read_recording(file, verifier.settings.limits).waveform
    (embedding,) = session.run(["embeddings"], {"waveforms": waveform[None]})
    return embedding


def _run(verifier: Verifier, *arguments: str | Path) -> None:
    code = main([*map(str, arguments), "--model", "loaded", "--device", "cpu"], lambda *_: verifier)
    assert code == 0, arguments


def _table(answers: Sequence[dict]) -> pd.DataFrame:
    """Numbers of answers (pairs,): scores, log-likelihood ratio, probability, decision."""
    names = [
        name for name in ("cosine", "as_norm", "qmf", "llr", "probability", "accept") if name in answers[0]
    ]
    return pd.DataFrame(answers)[names].astype(float)
