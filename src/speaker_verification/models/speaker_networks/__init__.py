"""From a sequence of frames to one embedding."""

from __future__ import annotations

from speaker_verification.models.settings import SpeakerNetworkSettings
from speaker_verification.models.speaker_networks.astp import AttentiveStatisticsPooling
from speaker_verification.models.speaker_networks.base import SpeakerNetwork
from speaker_verification.models.speaker_networks.ecapa_tdnn import EcapaTdnn
from speaker_verification.models.speaker_networks.mhfa import MultiHeadFactorisedAttentivePooling
from speaker_verification.models.speaker_networks.x_vector import XVector

SPEAKER_NETWORKS: dict[str, type[SpeakerNetwork]] = {
    "astp": AttentiveStatisticsPooling,
    "x_vector": XVector,
    "ecapa_tdnn": EcapaTdnn,
    "mhfa": MultiHeadFactorisedAttentivePooling,
}


def build_speaker_network(settings: SpeakerNetworkSettings, width: int) -> SpeakerNetwork:
    """The chosen network, for frames of so many channels."""
    group = getattr(settings, settings.kind)
    return SPEAKER_NETWORKS[settings.kind](width, **group.model_dump())
