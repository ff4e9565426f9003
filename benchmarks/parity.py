"""The public implementations beside this one, from the same weights.

    python -m benchmarks.parity [--lap FOLDER] [--slt22 FOLDER] [--wespeaker-ssl FOLDER] [--wespeaker FOLDER]
        [--w2v-bert FOLDER] [--fixtures FOLDER]

Folders are clones of these repositories on GitHub; every one that is given takes part:

    --lap            sadPororo/LAP (needs einops)
    --slt22          JunyiPeng00/SLT22_MultiHead-Factorized-Attentive-Pooling
    --wespeaker-ssl  JunyiPeng00/Wespeaker_SSL: CA-MHFA (needs einops)
    --wespeaker      wenet-e2e/wespeaker: its port of W2V-BERT 2.0 with adapter MFA
    --w2v-bert       ZXHY-82/w2v-BERT-2.0_SV: W2V-BERT 2.0 with adapter MFA, also with LoRA

Each system is built by the public code, small, the newer ones also in published widths over two blocks,
filled with seeded weights, saved in the public format and imported here. Both then embed one batch, in
evaluation mode in float32 and in training mode (dropouts, layer drop and time masks off) in float64. The
features of W2V-BERT are compared apart, with transformers' extractor; in training mode both have the
extractor's. `--fixtures` keeps the public numbers for the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from benchmarks import parity_ca_mhfa, parity_w2v_bert
from benchmarks.public_code import differences, keep, public_code, report
from numpy.typing import NDArray
from tests.support import public_systems as systems
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from speaker_verification.models.importing.public_weights import one_naming


def main() -> int:
    arguments = _parse()
    warnings.filterwarnings("ignore", category=FutureWarning)  # the public code's weight norm
    logging.set_verbosity_error()  # it loads HuBERT into the class of wav2vec 2.0
    sys.stdout.write(f"{'system':38} {'quantity':24} {'difference':>10} {'bar':>6}\n")
    within: list[bool] = []
    if arguments.lap:
        within += [_lap(system, arguments) for system in systems.LAP_SYSTEMS]
    if arguments.slt22:
        within += [_original_wavlm(arguments), _slt22(arguments)]
    if arguments.wespeaker_ssl:
        within += parity_ca_mhfa.compare(arguments.wespeaker_ssl, arguments.fixtures)
    if arguments.wespeaker:
        within += parity_w2v_bert.compare_wespeaker(arguments.wespeaker, arguments.fixtures)
    if arguments.w2v_bert:
        within += parity_w2v_bert.compare_authors(arguments.w2v_bert, arguments.fixtures)
    if arguments.wespeaker or arguments.w2v_bert:
        within += parity_w2v_bert.compare_features()
    return 0 if all(within) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--lap", "--slt22", "--wespeaker-ssl", "--wespeaker", "--w2v-bert"):
        parser.add_argument(name, type=Path, metavar="FOLDER")
    parser.add_argument("--fixtures", type=Path, help="keep the public numbers in this folder")
    return parser.parse_args()


def _lap(system: systems.LapSystem, arguments: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as name, public_code(arguments.lap / "src"):
        encoder_folder = Path(name) / system.encoder
        architecture = dict(systems.ENCODERS[system.encoder])
        config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        AutoModel.from_config(config).save_pretrained(encoder_folder)
        options = system.options(encoder_folder)
        public = importlib.import_module("model").SVmodel(SimpleNamespace(model=SimpleNamespace(**options)))
        shapes = systems.shapes_of(public)
        weights = systems.draw_weights(shapes, systems.SEED)
        public.load_state_dict(weights)
        public.frontend = StatesOfTransformers4(public.frontend)
        theirs = _public_lap_quantities(public)
        ours = systems.our_lap_quantities(
            systems.write_lap_folder(Path(name) / "experiment", options, weights)
        )
    if system in systems.KEPT_LAP_SYSTEMS:
        keep(arguments.fixtures, system.name, {"model": shapes}, theirs)
    return report(system.name, differences(ours, theirs))


class StatesOfTransformers4(nn.Module):
    """The public code's encoder, its last state after the final LayerNorm as transformers 4 gave it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, attention_mask: None, output_hidden_states: bool) -> Any:
        output = self.encoder(waveforms, output_hidden_states=output_hidden_states)
        return SimpleNamespace(hidden_states=(*output.hidden_states[:-1], output.last_hidden_state))


def _public_lap_quantities(public: Any) -> systems.Quantities:
    waveforms, labels = systems.draw_batch()
    margins = systems.MARGINS
    with torch.no_grad():
        evaluation = public.eval()(waveforms)
    public.double().train()
    public.aam_softmax.update_margins(margins.target, margins.top_k_penalty, margins.top_k)
    embeddings, _, loss = public(waveforms.double(), target=labels)
    loss.backward()
    gradients = {
        name.replace("frontend.encoder.", "frontend.", 1): p.grad for name, p in public.named_parameters()
    }
    return systems.Quantities(
        {"embedding": evaluation.numpy()},
        systems.as_arrays({"embedding": embeddings, "loss": loss}),
        systems.as_arrays(gradients),
    )


def _original_wavlm(arguments: argparse.Namespace) -> bool:
    """An encoder of the Large type, from its file."""
    with tempfile.TemporaryDirectory() as name, public_code(arguments.slt22):
        public = _public_wavlm(systems.ORIGINAL_LARGE)
        shapes = systems.shapes_of(public)
        weights = systems.draw_weights(shapes, systems.PRETRAINED_SEED)
        public.load_state_dict(weights)
        waveforms, _ = systems.draw_batch()
        with torch.no_grad():
            theirs = systems.Quantities({"encoder": _last_state(public.eval(), waveforms)}, {}, {})
        path = systems.write_original_wavlm(Path(name) / "WavLM.pt", systems.ORIGINAL_LARGE, weights)
        ours = systems.Quantities({"encoder": systems.our_last_state(path)}, {}, {})
    keep(arguments.fixtures, "original_wavlm_large", {"wavlm": shapes}, theirs)
    return report("original_wavlm_large", differences(ours, theirs))


def _public_wavlm(cfg: Mapping[str, Any]) -> Any:
    code = importlib.import_module("models.Baseline.WavLM")
    return code.WavLM(code.WavLMConfig(dict(cfg)))


def _last_state(public: Any, waveforms: Tensor) -> NDArray[np.float32]:
    """Output of the last block; the encoder's final LayerNorm is not part of it."""
    _, layers = public.extract_features(waveforms, output_layer=public.cfg.encoder_layers + 1)
    return layers[-1][0].transpose(0, 1).numpy()


def _slt22(arguments: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as name, public_code(arguments.slt22), _without_gpu():
        wavlm_shapes = systems.shapes_of(_public_wavlm(systems.ORIGINAL_BASE))
        pretrained = systems.draw_weights(wavlm_shapes, systems.PRETRAINED_SEED)
        wavlm = systems.write_original_wavlm(Path(name) / "WavLM.pt", systems.ORIGINAL_BASE, pretrained)
        public = _public_slt22(wavlm)
        shapes = systems.shapes_of(public)
        weights = systems.draw_weights(shapes, systems.SEED)
        theirs = _public_slt22_quantities(public, weights, pretrained)
        torch.save(weights, Path(name) / "slt22.model")
        ours = systems.our_slt22_quantities(Path(name) / "slt22.model", wavlm)
    keep(arguments.fixtures, "slt22", {"wavlm": wavlm_shapes, "model": shapes}, theirs)
    return report("slt22", differences(ours, theirs))


def _public_slt22(wavlm: Path) -> Any:
    """The public model, its MHFA as wide as the small encoder."""
    parity_ca_mhfa.let_wavlm_be_double(importlib.import_module("models.Baseline.modules"))
    speaker_encoder = importlib.import_module("models.Baseline.Spk_Encoder")
    heads, _, *others = speaker_encoder.MHFA.__init__.__defaults__
    speaker_encoder.MHFA.__init__.__defaults__ = (heads, systems.ORIGINAL_BASE["encoder_embed_dim"], *others)
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("SpeakerNet").SpeakerNet(
            model="Baseline.Spk_Encoder",
            optimizer="adamw",
            trainfunc="aamsoftmax",
            nPerSpeaker=1,
            pretrained_model_path=str(wavlm),
            nOut=256,
            nClasses=systems.NUM_CLASSES,
            margin=systems.SLT22_MARGINS.target,
            scale=30,
            weight_finetuning_reg=systems.DISTANCE.weight,
        )


def _public_slt22_quantities(
    public: Any, weights: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]
) -> systems.Quantities:
    waveforms, labels = systems.draw_batch()
    with torch.no_grad():
        public.__S__.model.load_state_dict(pretrained)
        encoder = _last_state(public.__S__.model.eval(), waveforms)
        public.load_state_dict(weights)
        evaluation = public.eval()([waveforms, "test"])
    public.double().train()
    embeddings = public.__S__([waveforms.double(), "train"])
    distances = {name: tensor.double() for name, tensor in pretrained.items()}
    loss, _, aam = public([waveforms.double(), "train"], labels, distances)
    loss.backward()
    gradients = one_naming({name: weight.grad for name, weight in public.named_parameters()})
    return systems.Quantities(
        {"encoder": encoder, "embedding": evaluation.numpy()},
        systems.as_arrays({"embedding": embeddings, "aam": aam, "loss": loss}),
        systems.as_arrays(systems.learning(gradients)),
    )


@contextmanager
def _without_gpu() -> Iterator[None]:
    """The public code asks for a GPU wherever it runs."""
    to_gpu = Tensor.cuda
    Tensor.cuda = lambda self, *_args, **_kwargs: self
    try:
        yield
    finally:
        Tensor.cuda = to_gpu


if __name__ == "__main__":
    sys.exit(main())
