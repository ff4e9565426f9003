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
from speaker_verification.models.settings import ModelSettings

logger = logging.getLogger(__name__)


def download_pretrained_encoder(model: ModelSettings, encoders_folder: Path) -> None:
    """Download the encoder that `pretrain` starts from, where the parameters name one of the hub.

    Args:
        model: settings of the speaker model, whose frontend names the encoder.
        encoders_folder: folder of encoders, each below it by its name on the hub.

    Raises:
        DataError: the hub does not hand it out, or it cannot be loaded.
    """
    from speaker_verification.models.encoders.pretrained import download_encoder

    checkpoint = model.frontend.checkpoint
    if checkpoint is None:
        logger.info("no encoder to download: its weights are drawn at random")
    else:
        download_encoder(checkpoint, encoders_folder, model.frontend.adapter)


def download_corpora(
    prepare: PrepareSettings,
    augmentation: AugmentationSettings,
    download: DownloadSettings,
    download_credentials: Mapping[str, Any],
    mirror_folder: Path,
) -> None:
    """Download the files that `prepare` needs from the mirror's base URL, or from the official hosts.

    Args:
        prepare: settings of data preparation, which say what is needed and from which mirror.
        augmentation: settings that say which augmentation archives are needed.
        download: settings of the download.
        download_credentials: credentials of the hosts, see `Credentials`.
        mirror_folder: folder that the files are saved to.

    Raises:
        ParameterError: the credentials are missing or wrong.
        DataError: files cannot be had; all of them are named.
    """
    from speaker_verification.corpora.download.downloader import download_files

    if prepare.mirror is not None and not is_address(prepare.mirror):
        logger.info("nothing to download: prepare reads the folder %s in place", prepare.mirror)
        return
    if prepare.mirror is None and prepare.synthetic is not None:
        logger.warning(
            "nothing to download: prepare.synthetic makes the mirror; set prepare.mirror or drop it"
        )
        return
    download_files(
        wanted_files(prepare, augmentation),
        mirror_folder,
        prepare.mirror,
        download,
        Credentials.read(download_credentials),
    )
