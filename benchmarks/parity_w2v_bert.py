"""W2V-BERT 2.0 with adapter MFA, of its authors and of wespeaker: see benchmarks/parity.py."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from benchmarks.public_code import (
    NUM_BLOCKS,
    ImportedSystem,
    add_wespeaker_head,
    as_quantities,
    count,
    differences,
    keep,
    parameters_row,
    public_code,
    public_gradients,
    report,
)
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from tests.support import public_systems as systems
from torch import Tensor, nn
from torch.nn import functional
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.models import Margins
from speaker_verification.models.encoders.log_mel import stacked_log_mel
from speaker_verification.models.importing.w2v_bert import w2v_bert_name
from speaker_verification.models.layer_aggregation.adapter_mfa import AdapterMfa, AdapterMfaSettings
from speaker_verification.models.speaker_networks.asp import AspSettings, PlainAttentiveStatisticsPooling

MARGINS = Margins(target=0.2, top_k=0, top_k_penalty=0.0)
FEATURES_BAR = 1e-4  # absolute: features have unit variance
NUM_LENGTHS = 1000


@dataclass(frozen=True)
class Size:
    """Widths of a system; its encoder has two blocks."""

    name: str
    encoder: Mapping[str, int]
    adapter_width: int
    embedding_size: int


SMALL = Size(
    "",
    {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_depthwise_kernel_size": 7,
    },
    *(6, 10),
)
SIZES = (SMALL, Size(", published widths", {}, 128, 256))
PUBLISHED_STATES = (25, 1024)
QUIET = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "conformer_conv_dropout": 0.0,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}


def compare_wespeaker(folder: Path, fixtures: Path | None) -> list[bool]:
    """Compare wespeaker's port in all sizes; one verdict each.

    Args:
        folder: clone of wespeaker.
        fixtures: folder for the public numbers; None keeps none.
    """
    with public_code(folder, "wespeaker", "wespeaker.frontend"):
        return [*(_compare_wespeaker(size, fixtures) for size in SIZES), _compare_parameters()]


def compare_authors(folder: Path, fixtures: Path | None) -> list[bool]:
    """Compare the authors' code in all sizes, with LoRA and without; one verdict each.

    Args:
        folder: clone of w2v-BERT-2.0_SV.
        fixtures: folder for the public numbers; None keeps none.
    """
    with public_code(folder, "deeplab"), public_code(folder / "recipes/DeepASV/local"):
        return [_compare_authors(size, lora, fixtures) for size in SIZES for lora in (False, True)]


def compare_features() -> list[bool]:
    """Compare features of waveforms of many lengths, in batches of two and alone, with the extractor's."""
    rng = np.random.default_rng(5)
    extractor = SeamlessM4TFeatureExtractor()
    largest: dict[str, float] = {}
    for num_samples in rng.integers(720, 3 * SAMPLE_RATE, NUM_LENGTHS):
        waveforms = _noise(rng, int(num_samples))
        batched = stacked_log_mel(torch.from_numpy(waveforms)).numpy()
        frames = "odd" if ((num_samples - 400) // 160 + 1) % 2 else "even"
        for waveform, together in zip(waveforms, batched, strict=True):
            theirs = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="np")["input_features"][0]
            alone = stacked_log_mel(torch.from_numpy(waveform)[None])[0].numpy()
            for batch, ours in (("batched", together), ("alone", alone)):
                case = f"{frames} frames, {batch}"
                difference = float(np.abs(ours - theirs[: len(ours)]).max())
                largest[case] = max(largest.get(case, 0.0), difference)
    return [report("features of W2V-BERT", [(case, largest[case], FEATURES_BAR) for case in sorted(largest)])]


def _compare_wespeaker(size: Size, fixtures: Path | None) -> bool:
    waveforms, labels = systems.draw_batch()
    with tempfile.TemporaryDirectory() as name:
        encoder = _write_encoder(Path(name) / "encoder", size)
        public = _public_wespeaker(encoder, size)
        shapes = systems.shapes_of(public)
        public.load_state_dict(systems.draw_weights(shapes, systems.SEED))
        torch.save(public.state_dict(), Path(name) / "model_3.pt")
        public_name = partial(w2v_bert_name, frontend="frontend.encoder.")
        imported = ImportedSystem(Path(name) / "model_3.pt", encoder, "projection.weight", public_name)

    def embed(waveforms: Tensor) -> Tensor:
        states, _ = public.frontend(waveforms, torch.full((len(waveforms),), waveforms.shape[1]))
        return public(states)[1]

    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        public.eval()
        evaluation = embed(waveforms)
        public.double().train()
    public.frontend.processor = _double_features
    public.projection.update(MARGINS.target)
    embeddings = embed(waveforms.double())
    loss = functional.cross_entropy(public.projection(embeddings, labels), labels)
    loss.backward()
    theirs = as_quantities(evaluation, embeddings, loss, public_gradients(public))
    if size is SMALL:
        kept = systems.Quantities(theirs.evaluation, {}, {})
        keep(fixtures, "w2v_bert_wespeaker", {"model": shapes}, kept)
    ours = imported.quantities(MARGINS, _double_features(waveforms)["input_features"])
    backend = count(public.adapter_layers, public.pooling, public.bottleneck)
    rows = [*differences(ours, theirs), parameters_row(imported.backend_parameters(), backend)]
    return report(f"w2v_bert_wespeaker{size.name}", rows)


def _compare_parameters() -> bool:
    """Compare the numbers of parameters behind the published encoder."""
    num_states, width = PUBLISHED_STATES
    public = _public_adapter_mfa(feat_dim=width, num_frontend_hidden_layers=num_states - 1)
    aggregation = AdapterMfa(num_states, width, AdapterMfaSettings())
    network = PlainAttentiveStatisticsPooling(
        AdapterMfaSettings().frame_width(num_states, width), AspSettings()
    )
    ours = count(aggregation, network)
    return report("w2v_bert_wespeaker, 24 blocks", [parameters_row(ours, count(public))])


def _compare_authors(size: Size, lora: bool, fixtures: Path | None) -> bool:
    """One system; with LoRA, which is merged on import, in evaluation mode alone."""
    waveforms, labels = systems.draw_batch()
    with tempfile.TemporaryDirectory() as name:
        encoder = _write_encoder(Path(name) / "encoder", size)
        public, head = _public_authors(encoder, size, lora)
        shapes = systems.shapes_of(public)
        public.load_state_dict(systems.draw_weights(shapes, systems.SEED))
        rows = {"classifier.weight": list(head.weight.shape)}
        head.weight.data = systems.draw_weights(rows, systems.SEED)["classifier.weight"]
        modules = {"spk_model": public.state_dict(), "classifier": head.state_dict()}
        torch.save({"modules": modules, "epoch_idx": 3}, Path(name) / "ckpt_0003.pth")
        public_name = partial(w2v_bert_name, frontend="front.encoder.")
        imported = ImportedSystem(Path(name) / "ckpt_0003.pth", encoder, "classifier.weight", public_name)

    with torch.no_grad():
        evaluation = public.eval()(waveforms)
    if lora:
        theirs = systems.Quantities({"embedding": evaluation.numpy()}, {}, {})
        ours = systems.Quantities({"embedding": imported.model.embed(waveforms).numpy()}, {}, {})
    else:
        public.double().train()
        embeddings = public(waveforms)
        loss = functional.cross_entropy(head.double()(embeddings, labels), labels)
        loss.backward()
        gradients = public_gradients(public) | {"classifier.weight": head.weight.grad}
        theirs = as_quantities(evaluation, embeddings, loss, gradients)
        ours = imported.quantities(MARGINS, _double_features(waveforms)["input_features"])
    if lora and size is SMALL:
        keep(fixtures, "w2v_bert_lora", {"model": shapes}, theirs)
    backend = count(public.adapter_layers, public.pooling, public.bottleneck)
    return report(
        f"w2v_bert{'_lora' * lora}{size.name}",
        [*differences(ours, theirs), parameters_row(imported.backend_parameters(), backend)],
    )


def _write_encoder(folder: Path, size: Size) -> Path:
    """Folder of an encoder without dropouts, with the configuration of its features."""
    config = Wav2Vec2BertConfig(num_hidden_layers=NUM_BLOCKS, **QUIET, **size.encoder)
    Wav2Vec2BertModel(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder


def _public_wespeaker(encoder: Path, size: Size) -> Any:
    """Public model with its encoder and its head."""
    code = importlib.import_module("wespeaker.frontend.w2vbert")
    with contextlib.redirect_stdout(io.StringIO()):
        frontend = code.W2VBertFrontend(model_name=str(encoder), frozen=False)
    model = _public_adapter_mfa(
        feat_dim=frontend.output_size(),
        num_frontend_hidden_layers=NUM_BLOCKS,
        adapter_dim=size.adapter_width,
        embed_dim=size.embedding_size,
    )
    add_wespeaker_head(model, "arc_margin", size.embedding_size)
    model.add_module("frontend", frontend)
    return model


def _public_adapter_mfa(**options: int) -> Any:
    code = importlib.import_module("wespeaker.models.w2vbert_adapter_mfa")
    with contextlib.redirect_stdout(io.StringIO()):
        return code.W2VBert_Adapter_MFA(**options)


def _public_authors(encoder: Path, size: Size, lora: bool) -> tuple[Any, Any]:
    """Public model and head, whose encoder is the installed transformers' and which computes on a CPU."""
    _provide("deeplab.pretrained.audio2vector.api", AudioEncoder=_PublicEncoder)
    _provide("calflops", calculate_flops=None)  # imported, not used
    settings = LoraConfig(r=64, lora_alpha=128, target_modules=["linear_q", "linear_v"], bias="none")
    model = importlib.import_module("spk_model").Audio2Vec_based_Adapter(
        str(encoder),
        peft_config=settings if lora else None,
        n_mfa_layers=-1,
        embd_dim=size.embedding_size,
        adapter_dim=size.adapter_width,
    )
    classifier = importlib.import_module("spk_classifier")
    classifier.torch = _TorchOnCpu()
    head = classifier.ArcFace(size.embedding_size, systems.NUM_CLASSES, s=32.0, m=MARGINS.target)
    return model, head


class _PublicEncoder(nn.Module):
    """The public encoder's part, without its copy of transformers 4, whose blocks returned tuples."""

    def __init__(
        self, folder: str, _frozen: bool, _bnb: None, peft: LoraConfig | None, _config: None
    ) -> None:
        super().__init__()
        code = importlib.import_module("deeplab.pretrained.audio2vector.forward_impl")
        self.forward = partial(code.forward_w2v_bert, self)
        self.feature_extractor = SeamlessM4TFeatureExtractor()
        self.encoder: Any = Wav2Vec2BertModel.from_pretrained(folder)
        del self.encoder.masked_spec_embed
        self.d_model = self.encoder.config.hidden_size
        self.n_hidden_states = NUM_BLOCKS + 1
        for block in self.encoder.encoder.layers:
            block.forward = partial(_as_tuple, block.forward)
        if peft:
            self.encoder = get_peft_model(self.encoder, peft)


def _as_tuple(forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> tuple[Tensor]:
    return (forward(*args, **kwargs),)


def _provide(name: str, **content: Any) -> None:
    """Stand in for a module."""
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(content)


class _TorchOnCpu:
    """torch, whose `zeros` are on the CPU whatever device is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, size: Any, device: str) -> Tensor:
        return torch.zeros(size)


def _double_features(waveforms: Any, **_: Any) -> Any:
    """Features as the extractor gives them, in float64."""
    arrays = [np.asarray(waveform, dtype=np.float32) for waveform in waveforms]
    extractor = SeamlessM4TFeatureExtractor()
    features = extractor(arrays, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    features["input_features"] = features["input_features"].double()
    return features


def _noise(rng: np.random.Generator, num_samples: int) -> NDArray[np.float32]:
    """Two waveforms whose spectrum falls by 12 dB an octave from 100 Hz, at levels of -60 to 0 dB."""
    spectrum = np.fft.rfft(rng.standard_normal((2, num_samples)))
    spectrum /= np.maximum(np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE) / 100, 1) ** 2
    waves = np.fft.irfft(spectrum, num_samples)
    levels = 10 ** rng.uniform(-3, 0, (2, 1))
    return (levels * waves / np.abs(waves).max(axis=1, keepdims=True)).astype(np.float32)
