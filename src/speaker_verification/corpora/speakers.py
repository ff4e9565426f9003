"""What the corpora tell of their speakers, besides their voices."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import SPEAKERS
from speaker_verification.corpora.conversion.archives import read_members
from speaker_verification.corpora.mirror import ARCHIVES, Mirror
from speaker_verification.corpora.texts import decode_text

VOXCELEB1_META = "vox1_meta.csv"
LIBRISPEECH_SPEAKERS = "LibriSpeech/SPEAKERS.TXT"
UNKNOWN = "unknown"


def known_speakers(mirror: Mirror, subsets: Iterable[str]) -> pd.DataFrame:
    """What is known of a mirror's speakers.

    Args:
        mirror: vox1_meta.csv in it, and SPEAKERS.TXT in LibriSpeech's archives, are read where they exist.
        subsets: the subsets in use; the files of other corpora are not looked at.

    Returns:
        The speakers table, without rows where nothing is known.

    Raises:
        DataError: a file is of another form, or an archive is not whole.
    """
    subsets = list(subsets)
    tables = [SPEAKERS.empty()]
    meta = mirror.folder / VOXCELEB1_META
    if any(subset.startswith("vox1-") for subset in subsets) and meta.is_file():
        tables.append(_read_voxceleb1_meta(meta))
    for subset in subsets:  # each archive of LibriSpeech tells of all its speakers
        if subset.startswith("librispeech-"):
            archive = mirror.folder / ARCHIVES[subset]
            text = _member_text(archive, LIBRISPEECH_SPEAKERS)
            if text is not None:
                tables.append(_parse_librispeech_speakers(text, f"{archive}, {LIBRISPEECH_SPEAKERS}"))
                break
    table = pd.concat(tables, ignore_index=True)
    gender = table["gender"].str.strip().str.lower()
    nationality = table["nationality"].str.strip()
    return SPEAKERS.conform(
        table.assign(
            gender=gender.where(gender.isin(["f", "m"]), UNKNOWN),
            nationality=nationality.where(nationality != "", UNKNOWN),
        )
    )


def _read_voxceleb1_meta(path: Path) -> pd.DataFrame:
    """Tab-separated, with a header line: VoxCeleb1 ID, VGGFace1 ID, Gender, Nationality, Set."""
    columns = {"VoxCeleb1 ID": "speaker_id", "Gender": "gender", "Nationality": "nationality"}
    try:
        text = io.StringIO(decode_text(path.read_bytes()))
        table = pd.read_csv(text, sep="\t", dtype=str, na_filter=False, quoting=csv.QUOTE_NONE)
        return table[list(columns)].rename(columns=columns)
    except (KeyError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: not tab-separated columns with {', '.join(columns)}: {error}") from error


def _parse_librispeech_speakers(text: str, where: str) -> pd.DataFrame:
    """A line for each speaker, ID | SEX | SUBSET | MINUTES | NAME, between comments that begin with `;`."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 5:
            raise DataError(f"{where}, line {number}: {line!r} is not 'ID | SEX | SUBSET | MINUTES | NAME'")
        rows.append((fields[0], fields[1], UNKNOWN))
    return pd.DataFrame(rows, columns=SPEAKERS.columns.names)


def _member_text(path: Path, name: str) -> str | None:
    """A text file of an archive; None when it holds none of that name."""
    found = (member for member in read_members([path]) if f"/{member.name}".endswith(f"/{name}"))
    member = next(found, None)
    return decode_text(member.read()) if member else None
