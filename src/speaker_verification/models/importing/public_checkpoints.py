"""Import of speaker models trained with public code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speaker_verification.common.errors import DataError, listed
from speaker_verification.models.encoders.configuration import build_encoder
from speaker_verification.models.heads.aam_softmax import SubcentreMarginHead
from speaker_verification.models.importing import wespeaker
from speaker_verification.models.importing.checkpoint import PublicCheckpoint
from speaker_verification.models.importing.lap import is_lap_folder, read_lap
from speaker_verification.models.importing.lora import PUBLISHED_ALPHA, has_lora, merge_lora
from speaker_verification.models.importing.mhfa import read_slt22, read_wespeaker_mhfa
from speaker_verification.models.importing.public_weights import load_renamed, one_naming, only_tensors
from speaker_verification.models.importing.w2v_bert import ADAPTERS, HEAD, read_w2v_bert
from speaker_verification.models.initialisation import Uninitialised
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.models.weight_files import read_torch_file

# By the start of a name that no other kind of file has.
_READERS: dict[str, Callable[[Mapping[str, Tensor], Path, str | Path | None], PublicCheckpoint]] = {
    "__S__.": read_slt22,
    "back_end.": read_wespeaker_mhfa,
    ADAPTERS: read_w2v_bert,
}
_KNOWN = (
    "the experiment folder of LAP, and files of SLT22's MHFA, of MHFA and CA-MHFA in wespeaker, and of "
    "W2V-BERT 2.0 with adapter MFA (w2v-BERT-2.0_SV, wespeaker)"
)


def is_public_checkpoint(path: Path) -> bool:
    """Whether a path looks like what `import_checkpoint` takes, rather than like a folder of this project."""
    return path.is_file() or (path / wespeaker.WEIGHTS).is_file() or is_lap_folder(path)


def import_checkpoint(
    path: str | Path, encoder: str | Path | None = None, lora_alpha: float | None = None
) -> SpeakerModel:
    """Speaker model of a checkpoint of public code.

    Args:
        path: LAP's experiment folder (the best epoch is taken) or one of its epoch folders; file of SLT22's
            MHFA, of MHFA or CA-MHFA in wespeaker, or of W2V-BERT 2.0 with adapter MFA (w2v-BERT-2.0_SV, or
            wespeaker's port); folder with wespeaker's avg_model.pt. wespeaker's config.yaml is read where it
            is beside the file; without it the published options are assumed.
        encoder: hub name or folder of the encoder's configuration (weights are in the checkpoint); None takes
            the one that LAP's `model_config.yaml` names, and for files infers it from the shapes of weights.
        lora_alpha: scale of low-rank updates that are not merged yet; None takes that of wespeaker's
            config.yaml, or the published 128.

    Returns:
        Model in evaluation mode; `save_pretrained` saves it.

    Raises:
        DataError: the path is no such checkpoint, the encoder's configuration cannot be read, or weights are
            missing, unexpected or of another shape; all of them are listed.
    """
    checkpoint = _read(Path(path), encoder, lora_alpha)
    config = checkpoint.encoder()
    with Uninitialised():
        model = SpeakerModel(build_encoder(config, f"'{checkpoint.origin}': "), checkpoint.settings)
    load_renamed(model, checkpoint.weights, checkpoint.public_name, checkpoint.origin)
    return model.eval()


def import_margin_head(path: str | Path) -> SubcentreMarginHead:
    """Margin head of a checkpoint of public code, with classes in the order of its speakers.

    Args:
        path: see `import_checkpoint`.

    Raises:
        DataError: the path is no such checkpoint, or the checkpoint has no head of AAM-softmax.
    """
    checkpoint = _read(Path(path))
    if checkpoint.centres is None:
        raise DataError(f"'{checkpoint.origin}' has no margin head of AAM-softmax")
    shape, num_subcentres = tuple(checkpoint.centres.shape), checkpoint.head.num_subcentres
    if len(shape) != 3 or shape[0] != num_subcentres:
        raise DataError(
            f"'{checkpoint.origin}' has a margin head of shape {shape}, not ({num_subcentres} sub-centres, "
            "embedding size, classes)"
        )
    head = SubcentreMarginHead(shape[1], shape[2], checkpoint.head)
    with torch.no_grad():
        head.weight.copy_(checkpoint.centres)
    return head


def _read(path: Path, encoder: str | Path | None = None, lora_alpha: float | None = None) -> PublicCheckpoint:
    if path.is_dir() and not (path / wespeaker.WEIGHTS).is_file():
        return read_lap(path, encoder)
    origin = path / wespeaker.WEIGHTS if path.is_dir() else path
    weights = one_naming(_state_dict(read_torch_file(origin), origin))
    readers = [
        reader for start, reader in _READERS.items() if any(name.startswith(start) for name in weights)
    ]
    if len(readers) != 1:
        raise DataError(
            f"'{origin}' is no checkpoint of known public code (it has {listed(sorted(weights))}): "
            f"import_checkpoint takes {_KNOWN}"
        )
    return readers[0](_merged(weights, lora_alpha, origin), origin, encoder)


def _merged(weights: dict[str, Tensor], lora_alpha: float | None, origin: Path) -> dict[str, Tensor]:
    """Weights without low-rank updates beside them."""
    if has_lora(weights):
        options = wespeaker.read_options(origin)
        named = wespeaker.option(options, "dataset_args", "w2vbert_args", "lora_config_args", "lora_alpha")
        alpha = next(given for given in (lora_alpha, named, PUBLISHED_ALPHA) if given is not None)
        return merge_lora(weights, alpha, origin)
    if lora_alpha is not None:
        raise DataError(f"'{origin}' has no low-rank updates (LoRA) to merge: leave lora_alpha out")
    return weights


def _state_dict(content: dict[str, Any], origin: Path) -> dict[str, Tensor]:
    """Weights of a file, which are at its top or one level below.

    w2v-BERT-2.0_SV writes `{modules: {spk_model, classifier}}`, wespeaker also `{model}` and `{state_dict}`;
    torch puts `module.` before the names of a model on several GPUs.
    """
    if {"cfg", "model"} <= content.keys():
        raise DataError(f"'{origin}' is an original WavLM file: import_encoder takes it")
    modules = content.get("modules")
    if isinstance(modules, dict) and "spk_model" in modules:
        head = only_tensors(modules.get("classifier", {}), origin)
        return only_tensors(modules["spk_model"], origin) | {f"{HEAD}{name}": head[name] for name in head}
    inner = (content[name] for name in ("model", "state_dict") if isinstance(content.get(name), dict))
    weights = only_tensors(next(inner, content), origin)
    return {name.removeprefix("module."): value for name, value in weights.items()}
