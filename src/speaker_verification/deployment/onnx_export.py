"""Export of a verifier's speaker model to ONNX, from waveforms to embeddings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

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
INT8_FILE = "model.int8.onnx"
DATA_SUFFIX = ".data"  # of the weights of a model that one file cannot hold
INPUT, OUTPUT = "waveforms", "embeddings"
TOLERANCE = 1e-3  # of embeddings relative to their largest number
LEAST_COSINE = 0.9  # of int8 embeddings with those of float32
_SCOPES = "pkg.torch.onnx.name_scopes"  # modules that a node comes from, by torch's exporter
_CHECKED = ((1, 1.0), (3, 1.7))  # waveforms, and their length relative to twice the shortest


def export_onnx(verifier: Verifier, folder: str | Path, int8: bool = False) -> Path:
    """Write `model.onnx`, and compare its embeddings with the model's before it appears.

    The graph takes `waveforms` (B, samples), float32 at 16 kHz, any number of them of any one length, and
    gives raw `embeddings` (B, E); a waveform normalisation is part of it. It takes a recording in one piece:
    longer ones than the window of the settings are cut by the caller. Its metadata hold the `fingerprint` of
    the verifier, `sample_rate`, `minimum_samples` and the `calibration`, as `Calibration.from_dict` reads it.

    The int8 graph, `model.int8.onnx`, has the weights of the encoder's linear layers in 8 bits and rounds
    their inputs at run time. Its embeddings differ, while thresholds and calibration are those of float32.

    Args:
        verifier: verifier whose model is exported.
        folder: folder to make, or to replace where it holds an earlier export.
        int8: a second, quantised graph beside the first.

    Returns:
        Path of the float32 graph.

    Raises:
        DataError: the encoder cannot be exported, its embeddings differ, the folder holds something else, or
            the extra `onnx` is not installed.
    """
    folder = Path(folder)
    own = {name + suffix for name in (ONNX_FILE, INT8_FILE) for suffix in ("", DATA_SUFFIX)}
    if folder.exists() and {path.name for path in folder.iterdir()} - own:
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
        write_graph(model, part / ONNX_FILE, metadata)
        _compare(model, part / ONNX_FILE)
        if int8:
            write_int8_graph(part / ONNX_FILE, part / INT8_FILE)
            _compare_int8(model, part / INT8_FILE)
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


def write_graph(model: SpeakerModel, file: Path, metadata: dict[str, str]) -> None:
    """Write the graph of a model on the CPU, from waveforms to embeddings.

    Raises:
        DataError: the encoder cannot be exported.
    """
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
    for waveforms, expected, found in _embeddings(model, file):
        deviation = float(np.abs(found - expected).max() / np.abs(expected).max())
        if not deviation <= TOLERANCE:
            raise DataError(
                f"the ONNX graph's embeddings differ by {deviation:.2g} of their size from the model's, of "
                f"{len(waveforms)} waveforms of {waveforms.shape[1]} samples: serve the verifier itself"
            )


def _compare_int8(model: SpeakerModel, file: Path) -> None:
    """Refuse a quantised graph whose embeddings point elsewhere than the model's."""
    for _, expected, found in _embeddings(model, file):
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = float(((found * expected).sum(axis=1) / norms).min())
        if not cosine >= LEAST_COSINE:
            raise DataError(
                f"the int8 graph's embeddings have a cosine of {cosine:.2f} with the model's, below "
                f"{LEAST_COSINE:g}: export without int8"
            )


def _embeddings(model: SpeakerModel, file: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Waveforms of several lengths, the model's embeddings of them, and a graph's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    for num_waveforms, length in _CHECKED:
        num_samples = round(2 * length * model.minimum_samples)
        waveforms = 0.1 * torch.randn(num_waveforms, num_samples, generator=random)
        (found,) = session.run([OUTPUT], {INPUT: waveforms.numpy()})
        yield waveforms.numpy(), model.embed(waveforms).numpy(), found


def write_int8_graph(source: Path, destination: Path) -> None:
    """Write a graph with the weights of the encoder's linear layers in 8 bits.

    They are signed, for which processors with instructions for 8 bits are fast, and use 7 of them, so that
    sums of two products do not saturate 16 bits on others.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = source.with_name(source.name + DATA_SUFFIX).exists()
    with TemporaryDirectory(dir=source.parent) as folder:
        inferred = Path(folder) / ONNX_FILE
        quant_pre_process(
            source, inferred, skip_optimization=True, skip_symbolic_shape=True, save_as_external_data=large
        )
        quantize_dynamic(
            inferred,
            destination,
            nodes_to_quantize=_linear_layers(source),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            use_external_data_format=large,
        )


def _linear_layers(file: Path) -> list[str]:
    """Names of a graph's nodes that are linear layers of the encoder, but for those without units."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {weight.name: weight.dims for weight in graph.initializer}
    layers = []
    for node in graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES, "")
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight and 0 not in weight and "frontend.encoder." in scopes and "'linear" in scopes:
            layers.append(node.name)
    return layers
