"""Export of a verifier's speaker model to ONNX, from waveforms to embeddings."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.atomic import atomic_write
from speaker_verification.common.errors import DataError
from speaker_verification.common.progress import busy
from speaker_verification.deployment.verifier import Verifier
from speaker_verification.models.speaker_model import SpeakerModel

ONNX_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"  # weights of a model that one file cannot hold
INPUT, OUTPUT = "waveforms", "embeddings"
TOLERANCE = 1e-3  # of embeddings relative to their largest number
_CHECKED = ((1, 1.0), (3, 1.7))  # waveforms, and their length relative to twice the shortest


def export_onnx(verifier: Verifier, folder: str | Path) -> Path:
    """Write `model.onnx`, and compare its embeddings with the model's before it appears.

    The graph takes `waveforms` (B, samples), float32 at 16 kHz, any number of them of any one length, and
    gives raw `embeddings` (B, E); a waveform normalisation is part of it. It takes a recording in one piece:
    longer ones than the window of the settings are cut by the caller. Its metadata hold the `fingerprint` of
    the verifier, `sample_rate`, `minimum_samples` and the `calibration`, as `Calibration.from_dict` reads it.

    Args:
        verifier: verifier whose model is exported.
        folder: folder to make, or to replace where it holds an earlier export.

    Returns:
        Path of the file.

    Raises:
        DataError: the encoder cannot be exported, its embeddings differ, the folder holds something else, or
            the extra `onnx` is not installed.
    """
    folder = Path(folder)
    if folder.exists() and {path.name for path in folder.iterdir()} - {ONNX_FILE, DATA_FILE}:
        raise DataError(f"'{folder}' holds other files than an export: take an empty folder")
    _refuse_absent_packages()
    model = verifier.model.cpu()
    metadata = {
        "fingerprint": verifier.fingerprint,
        "sample_rate": str(SAMPLE_RATE),
        "minimum_samples": str(model.minimum_samples),
        "calibration": json.dumps(verifier.calibration.to_dict()),
    }
    with busy("export to ONNX"), atomic_write(folder) as part:
        part.mkdir()
        _write(model, part / ONNX_FILE, metadata)
        _compare(model, part / ONNX_FILE)
    return folder / ONNX_FILE


class _Embedding(nn.Module):
    """The model without its checks of values, which a graph cannot hold."""

    def __init__(self, model: SpeakerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> Tensor:
        states = self.model.frontend(waveforms)
        return self.model.speaker_network(
            *(aggregate(states) for aggregate in self.model.layer_aggregation.values())
        )


def _refuse_absent_packages() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise DataError(f"{name} is not installed: pip install 'speaker-verification[onnx]'")


def _write(model: SpeakerModel, file: Path, metadata: dict[str, str]) -> None:
    least = model.minimum_samples
    shapes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=least)}
    try:
        # Of the plain attention alone the output has the memory layout that the graph's own has.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own code
            program = torch.onnx.export(
                _Embedding(model).eval(),
                (torch.randn(2, 2 * least),),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(file)
    except Exception as error:  # dynamo, the exporter and onnx each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the encoder ({model.frontend.config.model_type}) cannot be exported to ONNX ({reason}): serve "
            "the verifier itself"
        ) from error


def _compare(model: SpeakerModel, file: Path) -> None:
    """Refuse a graph whose embeddings of waveforms of several lengths are not the model's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    for num_waveforms, length in _CHECKED:
        num_samples = round(2 * length * model.minimum_samples)
        waveforms = 0.1 * torch.randn(num_waveforms, num_samples, generator=random)
        expected = model.embed(waveforms).numpy()
        (found,) = session.run([OUTPUT], {INPUT: waveforms.numpy()})
        deviation = float(np.abs(found - expected).max() / np.abs(expected).max())
        if not deviation <= TOLERANCE:
            raise DataError(
                f"the ONNX graph's embeddings differ by {deviation:.2g} of their size from the model's, of "
                f"{num_waveforms} waveforms of {num_samples} samples: serve the verifier itself"
            )
