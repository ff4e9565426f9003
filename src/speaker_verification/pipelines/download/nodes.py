"""Nodes of the download."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.corpora.download.addresses import is_address
from speaker_verification.corpora.download.sources import Credentials, DownloadSettings, wanted_files
from speaker_verification.corpora.settings import PrepareSettings

logger = logging.getLogger(__name__)


def bring_pretrained_encoder(model: Mapping[str, Any], encoders_folder: Path) -> None:
    """Bring the encoder that `pretrain` starts from, where the parameters name one of the hub.

    Args:
        model: parameters of `ModelSettings`.
        encoders_folder: where it goes, below it by its name.

    Raises:
        DataError: the hub does not hand it out, or it cannot be loaded.
    """
    from speaker_verification.models.pretrained_encoders import bring_encoder
    from speaker_verification.models.settings import ModelSettings

    checkpoint = ModelSettings.parse(model, "model").frontend.checkpoint
    if checkpoint is None:
        logger.info("no encoder to download: its weights are drawn at random")
    else:
        bring_encoder(checkpoint, encoders_folder)


def bring_files(
    prepare: Mapping[str, Any],
    augmentation: Mapping[str, Any],
    download: Mapping[str, Any],
    download_credentials: Mapping[str, Any],
    mirror_folder: Path,
) -> None:
    """Bring what `prepare` needs from the mirror's base URL, or from the official hosts where none is set.

    Args:
        prepare: parameters of `PrepareSettings`.
        augmentation: parameters of `AugmentationSettings`.
        download: parameters of `DownloadSettings`.
        download_credentials: of the hosts, see `Credentials`.
        mirror_folder: where the files go.

    Raises:
        ParameterError: the credentials are missing or wrong.
        DataError: files cannot be had; all of them are named.
    """
    from speaker_verification.corpora.download.downloader import download_files

    settings = PrepareSettings.parse(prepare, "prepare")
    if settings.mirror is not None and not is_address(settings.mirror):
        logger.info("nothing to download: prepare takes the folder %s where it lies", settings.mirror)
        return
    if settings.mirror is None and settings.synthetic is not None:
        logger.warning(
            "nothing to download: prepare.synthetic makes the mirror; set prepare.mirror or drop it"
        )
        return
    download_files(
        wanted_files(settings, AugmentationSettings.parse(augmentation, "augmentation")),
        mirror_folder,
        settings.mirror,
        DownloadSettings.parse(download, "download"),
        Credentials.read(download_credentials),
    )
