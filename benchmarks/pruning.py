"""A cut encoder beside the whole one, and 8 bits beside 32: size, speed, memory and agreement.

    python -m benchmarks.pruning [--encoder wavlm | w2v_bert] [--large] [--sparsity 0.8] [--device cuda]
    python -m benchmarks.pruning --models WHOLE CUT --recordings FOLDER

Without `--models`, random weights of published shapes, of which the same share of all units is removed.
Embeddings of 3 s and 10 s, one recording at a time; the peak counts tensors alive beyond the weights. ONNX
graphs, of float32 and int8, run on the CPU. Agreement is of embeddings of int8 with those of float32: their
cosines, and how much cosine scores of pairs change; on recordings where they are given, on noise otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from benchmarks.timing import interleaved_seconds, parser_of, peak_bytes, say
from benchmarks.training_step import LARGE
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2BertConfig, Wav2Vec2BertModel, WavLMConfig, WavLMModel

from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.deployment.onnx_export import write_graph, write_int8_graph
from speaker_verification.models.pruning import KeptUnits, cut, sparsity_of
from speaker_verification.models.settings import ModelSettings
from speaker_verification.models.speaker_model import SpeakerModel

SECONDS = (3, 10)
NUM_RECORDINGS = 20


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    models = _models(arguments)
    for name, model in models.items():
        num_parameters = model.frontend.encoder.num_parameters()
        share = f", {sparsity_of(model):.1%} removed" if name == "cut" else ""
        say(f"{name}: encoder of {num_parameters / 1e6:.1f} M parameters{share}")
    say(f"\n{device}, {arguments.threads} threads, medians of {arguments.rounds}")
    for model in models.values():
        model.to(device)
    for seconds in SECONDS:
        waveform = 0.1 * torch.randn(1, seconds * SAMPLE_RATE)
        ways = {name: (_embedding(model, waveform.to(device)),) for name, model in models.items()}
        _compare(f"torch, {seconds} s", ways, arguments.rounds, device)
    if arguments.skip_onnx:
        return
    with tempfile.TemporaryDirectory() as folder:
        graphs = _graphs(models, Path(folder), arguments.threads)
        for seconds in SECONDS:
            noise = 0.1 * np.random.default_rng(0).normal(size=(1, seconds * SAMPLE_RATE)).astype(np.float32)
            ways = {name: (_running(session, noise),) for name, session in graphs.items()}
            _compare(f"ONNX, {seconds} s", ways, arguments.rounds)
        waveforms = _recordings(arguments.recordings)
        for name in models:
            _agreement(name, graphs[name], graphs[f"{name} int8"], waveforms)


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=5, larger="WavLM-Large instead of Base")
    parser.add_argument("--encoder", choices=("wavlm", "w2v_bert"), default="wavlm")
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of the encoder that is removed")
    parser.add_argument("--models", type=Path, nargs=2, metavar=("WHOLE", "CUT"), help="saved models")
    parser.add_argument("--recordings", type=Path, help="folder of recordings")
    parser.add_argument("--skip-onnx", action="store_true")
    return parser.parse_args()


def _models(arguments: argparse.Namespace) -> dict[str, SpeakerModel]:
    """The whole model, and the cut one."""
    if arguments.models:
        return dict(zip(("whole", "cut"), map(SpeakerModel.from_pretrained, arguments.models), strict=True))
    models = {}
    for name in ("whole", "cut"):
        torch.manual_seed(1)
        models[name] = SpeakerModel(_encoder(arguments), ModelSettings()).eval()
    cut(models["cut"], _units(models["cut"], arguments.sparsity))
    return models


def _encoder(arguments: argparse.Namespace) -> PreTrainedModel:
    if arguments.encoder == "w2v_bert":
        return Wav2Vec2BertModel(Wav2Vec2BertConfig())
    return WavLMModel(WavLMConfig(**(LARGE if arguments.large else {})))


def _units(model: SpeakerModel, sparsity: float) -> KeptUnits:
    """The same share of the units of every module, drawn at random, so that a share of the encoder goes."""
    groups = model.frontend.adapter.unit_groups()
    total = model.frontend.encoder.num_parameters()
    share = sparsity * total / sum(group.num_units * group.parameters_a_unit for group in groups)
    rng = np.random.default_rng(0)
    return KeptUnits.from_modules(
        (
            group.block,
            group.kind,
            tuple(sorted(rng.choice(group.num_units, round((1 - share) * group.num_units), False).tolist())),
        )
        for group in groups
    )


def _embedding(model: SpeakerModel, waveform: Tensor) -> Callable[[], Tensor]:
    return lambda: model.embed(waveform)


def _graphs(
    models: dict[str, SpeakerModel], folder: Path, threads: int
) -> dict[str, onnxruntime.InferenceSession]:
    """Sessions of the graphs of float32 and int8 of every model."""
    graphs = {}
    say()
    for name, model in models.items():
        files = {name: folder / f"{name}.onnx", f"{name} int8": folder / f"{name}.int8.onnx"}
        write_graph(model.cpu(), files[name], {})
        write_int8_graph(*files.values())
        for graph, file in files.items():
            size = sum(part.stat().st_size for part in folder.glob(f"{file.name}*"))
            say(f"{graph}: ONNX of {size / 1e6:.1f} MB")
            graphs[graph] = _session(file, threads)
    return graphs


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _running(session: onnxruntime.InferenceSession, waveforms: np.ndarray) -> Callable[[], Any]:
    return lambda: session.run(None, {"waveforms": waveforms})[0]


def _compare(title: str, ways: dict[str, Any], rounds: int, device: torch.device | None = None) -> None:
    """Print the times of all ways, relative to the first, and the peaks of those of torch."""
    seconds = interleaved_seconds(ways, rounds, device or torch.device("cpu"))
    say()
    for name, (median,) in seconds.items():
        peak = f", peak {peak_bytes(ways[name], device) / 1e6:7.1f} MB" if device else ""
        speed = seconds[next(iter(ways))][0] / median
        say(f"{title}: {name:10} {1000 * median:8.1f} ms{peak}, {speed:.2f} x as fast")


def _recordings(folder: Path | None) -> list[np.ndarray]:
    if folder is None:
        rng = np.random.default_rng(1)
        return [0.1 * rng.normal(size=3 * SAMPLE_RATE).astype(np.float32) for _ in range(NUM_RECORDINGS)]
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return [read_audio(path) for path in files[:: max(len(files) // NUM_RECORDINGS, 1)][:NUM_RECORDINGS]]


def _agreement(
    name: str,
    float32: onnxruntime.InferenceSession,
    int8: onnxruntime.InferenceSession,
    waveforms: list[np.ndarray],
) -> None:
    """Print the cosines of embeddings of int8 with those of float32, and how much scores of pairs change."""
    exact, rounded = (
        np.concatenate([_running(session, waveform[None])() for waveform in waveforms])
        for session in (float32, int8)
    )
    exact, rounded = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (exact, rounded))
    cosines = (exact * rounded).sum(axis=1)
    pairs = np.triu_indices(len(waveforms), 1)
    scores = (exact @ exact.T)[pairs]
    change = np.abs((rounded @ rounded.T)[pairs] - scores)
    say(f"\n{name}: int8 beside float32, {len(waveforms)} recordings")
    say(f"cosine of embeddings: {cosines.mean():.5f} on average, {cosines.min():.5f} at least")
    say(
        f"scores of pairs, of a deviation of {scores.std():.3f}: change by {change.mean():.4f} on average, "
        f"{change.max():.4f} at most"
    )


if __name__ == "__main__":
    main()
