"""Registry of the speaker networks."""

from __future__ import annotations

from speaker_verification.common.registry import ClassRegistry, KindSettings
from speaker_verification.models.speaker_networks.asp import PlainAttentiveStatisticsPooling
from speaker_verification.models.speaker_networks.astp import AttentiveStatisticsPooling
from speaker_verification.models.speaker_networks.base import SpeakerNetwork
from speaker_verification.models.speaker_networks.ecapa_tdnn import EcapaTdnn
from speaker_verification.models.speaker_networks.mhfa import MultiHeadFactorisedAttentivePooling
from speaker_verification.models.speaker_networks.x_vector import XVector

SPEAKER_NETWORKS: ClassRegistry[type[SpeakerNetwork]] = ClassRegistry(
    "speaker network",
    SpeakerNetwork,
    {
        "astp": AttentiveStatisticsPooling,
        "x_vector": XVector,
        "ecapa_tdnn": EcapaTdnn,
        "asp": PlainAttentiveStatisticsPooling,
        "mhfa": MultiHeadFactorisedAttentivePooling,
    },
)


class SpeakerNetworkSettings(KindSettings, registry=SPEAKER_NETWORKS, default="astp"):
    """Pooling network from frames to an embedding."""


def build_speaker_network(settings: SpeakerNetworkSettings, width: int) -> SpeakerNetwork:
    """The chosen network, for frames of C channels (`width`)."""
    network: SpeakerNetwork = settings.chosen_class(width, settings.chosen)
    return network
