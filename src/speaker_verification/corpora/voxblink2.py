"""VoxBlink2 (Lin et al. 2024): YouTube users in front of their cameras, in 18 languages.

Handed out as lists of videos and times, https://voxblink2.github.io; everyone has what was still there on the
day of his download.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.corpus import Archive, Corpus, Form, Layout, MetadataFile, Subset
from speaker_verification.corpora.texts import decode_text

_LIST = "spk2videos"
_PREFIX = "voxblink2-"


def _read_sessions(mirror: Path) -> pd.DataFrame | None:
    """The videos of `spk2videos`, a line `SPEAKER VIDEO VIDEO ...` for each speaker."""
    path = mirror / _LIST
    if not path.is_file():
        return None
    speakers: list[str] = []
    videos: list[str] = []
    for number, line in enumerate(decode_text(path.read_bytes()).splitlines(), start=1):
        speaker, *own = line.split() or [""]
        if not own and speaker:
            raise DataError(f"{path}, line {number}: {line!r} is not 'SPEAKER VIDEO VIDEO ...'")
        speakers += [_PREFIX + speaker] * len(own)
        videos += own
    return pd.DataFrame({"speaker_id": speakers, "session_id": videos})


VOXBLINK2 = Corpus(
    "voxblink2",
    licence="CC BY-NC-SA 4.0 for the lists; the recordings are their makers'",
    layout=Layout(
        "idNNNNNN/VIDEO/UTTERANCE.wav, .m4a or .flac (any folders in front)",
        r"(?:.*/)?(?P<speaker>id\d{6})/(?P<session>[^/]+)/(?P<utterance>[^/]+)\.(?:wav|m4a|flac)",
        prefix=_PREFIX,
    ),
    subsets={
        "voxblink2": Subset(
            Archive("voxblink2.tar"),  # packed by hand: there is none to download
            num_speakers=111_284,
            num_utterances=9_904_382,
            forms=(Form("voxblink2"), Form("voxblink2-*.tar"), Form("voxblink2.list")),
        )
    },
    metadata=(MetadataFile(_LIST, subsets=("voxblink2",)),),
    read_sessions=_read_sessions,
)
