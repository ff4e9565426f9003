"""LibriSpeech (Panayotov et al. 2015): volunteers reading audio books, a session for each chapter.

https://www.openslr.org/12
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import SPEAKERS
from speaker_verification.corpora.conversion.sources import Source
from speaker_verification.corpora.corpus import Archive, Corpus, DrawnList, Layout, Subset
from speaker_verification.corpora.texts import decode_text

_SPEAKERS_FILE = "LibriSpeech/SPEAKERS.TXT"


def _read_speakers(mirror: Path, sources: Mapping[str, Source]) -> pd.DataFrame | None:
    """Rows of SPEAKERS.TXT in the first archive that has it: each has those of all speakers."""
    for source in sources.values():
        if member := source.find(_SPEAKERS_FILE):
            return _parse_speakers(decode_text(member.read()), f"{source}, {_SPEAKERS_FILE}")
    return None


def _parse_speakers(text: str, where: str) -> pd.DataFrame:
    """A line for each speaker, ID | SEX | SUBSET | MINUTES | NAME, between comments that begin with `;`."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 5:
            raise DataError(f"{where}, line {number}: {line!r} is not 'ID | SEX | SUBSET | MINUTES | NAME'")
        rows.append((fields[0], fields[1], ""))
    return pd.DataFrame(rows, columns=SPEAKERS.columns.names)


def _subset(file: str, md5: str, num_speakers: int, num_utterances: int) -> Subset:
    return Subset(Archive(file, ("{openslr}/12",), md5), num_speakers, num_utterances)


LIBRISPEECH = Corpus(
    "librispeech",
    licence="CC BY 4.0",
    layout=Layout(
        "LibriSpeech/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac",
        r"(?:.*/)?(?P<speaker>\d+)/(?P<session>\d+)/(?P<utterance>(?P=speaker)-(?P=session)-\d+)"
        r"\.(?:flac|wav|m4a)",
    ),
    subsets={
        "librispeech-train-clean-100": _subset(
            "train-clean-100.tar.gz", "2a93770f6d5c6c964bc36631d331a522", 251, 28_539
        ),
        "librispeech-dev-clean": _subset("dev-clean.tar.gz", "42e2234ba48799c1f50f24a7926300a1", 40, 2_703),
        "librispeech-test-clean": _subset("test-clean.tar.gz", "32fa31d27d2e1cad72775fee3f4849a9", 40, 2_620),
    },
    trial_lists={
        "librispeech_dev_clean": DrawnList("librispeech-dev-clean"),
        "librispeech_dev_clean_same_sex": DrawnList("librispeech-dev-clean", same_sex=True),
        "librispeech_test_clean": DrawnList("librispeech-test-clean"),
        "librispeech_test_clean_same_sex": DrawnList("librispeech-test-clean", same_sex=True),
    },
    read_speakers=_read_speakers,
)
