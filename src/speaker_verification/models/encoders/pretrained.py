"""Pre-trained encoders by hub name or folder: look-up on this machine, resumable downloads from the hub."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from speaker_verification.common.atomic import atomic_write, remove
from speaker_verification.common.checksums import sha256_of
from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.models.encoders import AdapterChoice, adapter_class

logger = logging.getLogger(__name__)

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"  # has the waveform normalisation; some encoders lack it
WEIGHTS = (  # one of them is needed; in the order in which transformers looks for them
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
COPIED = (".json", ".safetensors", ".bin")


def find_encoder(checkpoint: str, downloads: Path) -> Path | None:
    """Folder of an encoder that is on this machine; None where it has to be downloaded.

    Args:
        checkpoint: folder, or hub name that is looked up in the downloads, then in the hub's own cache.
        downloads: folder of downloaded encoders, with a subfolder by the hub name of each.

    Raises:
        DataError: the checkpoint is a folder without an encoder, or neither a folder nor a hub name.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if not _is_encoder(folder):
            raise DataError(
                f"encoder '{checkpoint}': the folder lacks {CONFIG} or {' or '.join(WEIGHTS[::2])}"
            )
        return folder
    if not _is_hub_name(checkpoint):
        raise DataError(f"encoder '{checkpoint}': no such folder, and no hub name (OWNER/NAME)")
    places = (downloads / checkpoint, _cached(checkpoint))
    return next((place for place in places if place is not None and _is_encoder(place)), None)


def download_encoder(checkpoint: str, downloads: Path, adapter: AdapterChoice = None) -> Path:
    """Download an encoder by its hub name, unless it is on this machine.

    Args:
        checkpoint: folder or hub name.
        downloads: folder of downloaded encoders.
        adapter: see `adapter_class`.

    Returns:
        Folder of the encoder: the given one, or the one below `downloads`.

    Raises:
        DataError: as `find_encoder`, or the download fails, or the downloaded files cannot be loaded.
    """
    found = find_encoder(checkpoint, downloads)
    folder = downloads / checkpoint
    if found is None:
        _download(checkpoint, folder, adapter)
        logger.info("encoder %s: downloaded to %s", checkpoint, folder)
        return folder
    if found != folder and _is_hub_name(checkpoint) and not Path(checkpoint).is_dir():
        with atomic_write(folder) as part:
            part.mkdir()
            for path in found.iterdir():
                if path.suffix in COPIED:
                    shutil.copy(path, part)
        logger.info("encoder %s: copied from the hub's cache to %s", checkpoint, folder)
        return folder
    logger.info("encoder %s: nothing to download, it is in %s", checkpoint, found)
    return found


def _is_encoder(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in WEIGHTS)


def _is_hub_name(checkpoint: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(checkpoint)
    except HFValidationError:
        return False
    return True


def _cached(name: str) -> Path | None:
    """Folder of an encoder in the hub's cache, where other programs download to."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, CONFIG)
    return Path(config).parent if isinstance(config, str) else None


def _download(name: str, folder: Path, adapter: AdapterChoice) -> None:
    """Atomic, resumable download of an encoder: the folder appears once all files are there and load.

    An interrupted download leaves a hidden folder beside it, from which the next one resumes.
    """
    from speaker_verification.models.frontend import load_encoder

    if folder.exists():
        raise DataError(f"{folder}: lacks {CONFIG} or weights; remove it and run again")
    part = folder.with_name(f".{folder.name}.part")
    try:
        for file in _files_of(name, part, adapter):
            _download_file(name, file, part)
    except UserError:
        raise
    except Exception as error:  # the hub's client and its HTTP library each raise their own
        raise DataError(_explain(name, error)) from error
    try:
        load_encoder(part, adapter=adapter)
    except Exception as error:  # files that are no weights fail in many ways
        remove(part)
        raise DataError(f"encoder '{name}' as the hub has it cannot be loaded: {_reason(error)}") from error
    remove(part / ".cache")  # records of the hub's client
    part.rename(folder)


def _files_of(name: str, part: Path, adapter: AdapterChoice) -> Iterator[str]:
    """Files of an encoder; later ones are known once earlier ones have been downloaded to `part`."""
    yield CONFIG
    try:
        adapter_class(json.loads((part / CONFIG).read_text(encoding="utf-8")).get("model_type"), adapter)
    except ParameterError as error:
        raise DataError(f"encoder '{name}': {error}") from error
    if _is_on_hub(name, PREPROCESSOR):
        yield PREPROCESSOR
    weights = next((file for file in WEIGHTS if _is_on_hub(name, file)), None)
    if weights is None:
        raise DataError(f"encoder '{name}': the hub has no {' or '.join(WEIGHTS[::2])} of it")
    yield weights
    if weights.endswith(".index.json"):
        shards = json.loads((part / weights).read_text(encoding="utf-8"))["weight_map"].values()
        yield from sorted({shard for shard in shards if re.fullmatch(r"[\w-][\w.-]*", shard)})


def _is_on_hub(name: str, file: str) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, file))
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 404:
            return False
        raise
    return True


def _download_file(name: str, file: str, part: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    wanted = get_hf_file_metadata(hf_hub_url(name, file)).etag or ""
    path = Path(hf_hub_download(name, file, local_dir=part))
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        return  # the hub has no SHA-256 of small files
    if (found := sha256_of(path)) != wanted:
        path.unlink()
        raise DataError(f"encoder '{name}': SHA-256 of {file} is {found}, the hub says {wanted}; run again")


def _explain(name: str, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    elsewhere = "set model.frontend.checkpoint to another name or to a folder that holds an encoder"
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{name}"
        return f"encoder '{name}' is gated: accept its terms at {page} and set HF_TOKEN, or {elsewhere}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"encoder '{name}': the hub has no such model, or it is private and wants HF_TOKEN; {elsewhere}"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return f"encoder '{name}' cannot be downloaded while HF_HUB_OFFLINE is set: unset it, or {elsewhere}"
    again = f"run again, or {elsewhere}"
    return f"encoder '{name}': no download from {constants.ENDPOINT}: {_reason(error)}; {again}"


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
