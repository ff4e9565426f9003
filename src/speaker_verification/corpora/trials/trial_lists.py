"""The trial lists that have a name: VoxCeleb1's published ones, and those drawn over LibriSpeech."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speaker_verification.common.tables import TRIAL_LISTS

DRAWN = "drawn"  # stands for the file of a list that has none
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedList:
    """A list that is handed round as a file.

    Attributes:
        file: its name.
        subsets: the subsets that its utterances come from.
        num_trials: how many trials the published file has.
        md5: of the published file.
    """

    file: str
    subsets: tuple[str, ...]
    num_trials: int
    md5: str


@dataclass(frozen=True)
class DrawnList:
    """A list that is drawn from a subset, the same for the same seed.

    Attributes:
        subset: the subset that its utterances come from.
        same_sex: non-target trials pair speakers of one sex only.
    """

    subset: str
    same_sex: bool


# Numbers of trials and MD5 as in PaddleSpeech (examples/voxceleb/README.md, dataset/voxceleb/voxceleb1.py).
_O, _E = ("vox1-test",), ("vox1-dev", "vox1-test")
PUBLISHED_LISTS = {
    "vox1_o": PublishedList("veri_test2.txt", _O, 37_611, "b73110731c9223c1461fe49cb48dddfc"),
    "vox1_e": PublishedList("list_test_all2.txt", _E, 579_818, "a53e059deb562ffcfc092bf5d90d9f3a"),
    "vox1_h": PublishedList("list_test_hard2.txt", _E, 550_894, "857790e09d579a68eb2e339a090343c8"),
    "vox1_o_original": PublishedList("veri_test.txt", _O, 37_720, "29fc7cc1c5d59f0816dc15d6e8be60f7"),
    "vox1_e_original": PublishedList("list_test_all.txt", _E, 581_480, "b9ecf7aa49d4b656aa927a8092844e4a"),
    "vox1_h_original": PublishedList("list_test_hard.txt", _E, 552_536, "21c341b6b2168eea2634df0fb4b8fff1"),
}
DRAWN_LISTS = {
    "librispeech_dev_clean": DrawnList("librispeech-dev-clean", same_sex=False),
    "librispeech_dev_clean_same_sex": DrawnList("librispeech-dev-clean", same_sex=True),
    "librispeech_test_clean": DrawnList("librispeech-test-clean", same_sex=False),
    "librispeech_test_clean_same_sex": DrawnList("librispeech-test-clean", same_sex=True),
}
TRIAL_SUBSETS = {
    **{name: published.subsets for name, published in PUBLISHED_LISTS.items()},
    **{name: (drawn.subset,) for name, drawn in DRAWN_LISTS.items()},
}


def describe_lists(trials: pd.DataFrame, files: Mapping[str, Path], utterances: pd.DataFrame) -> pd.DataFrame:
    """Tell what each list is, in a table and in the log: official or not, its size, its oddities.

    Args:
        trials: the trials table.
        files: the file of each list that was read; the others were drawn.
        utterances: the manifest, with columns utterance_id and speaker_id, of all their utterances.

    Returns:
        The trial_lists table.
    """
    rows = []
    speaker_of = dict(zip(utterances["utterance_id"], utterances["speaker_id"], strict=True))
    for name, of_list in trials.groupby("trial_list", sort=False, observed=True):
        path = files.get(str(name))
        text = path.read_bytes() if path else _as_text(of_list)
        unix = text.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"  # copies differ in how their lines end
        num_target = int((of_list["label"] == 1).sum())
        published = PUBLISHED_LISTS.get(str(name))
        row = {
            "trial_list": str(name),
            "file": path.name if path else DRAWN,
            "md5": _md5(unix),
            "num_target": num_target,
            "num_nontarget": len(of_list) - num_target,
            "official": published is not None and published.md5 in (_md5(text), _md5(unix)),
            **_oddities(of_list, speaker_of),
        }
        logger.info("%s", _description(row, published))
        rows.append(row)
    return TRIAL_LISTS.conform(pd.DataFrame(rows, columns=TRIAL_LISTS.columns.names))


def _as_text(trials: pd.DataFrame) -> bytes:
    return trials[["label", "enroll_id", "test_id"]].to_csv(sep=" ", header=False, index=False).encode()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _oddities(trials: pd.DataFrame, speaker_of: Mapping[str, str]) -> dict[str, int]:
    """Counts of a list's repeated and self trials, and of those that contradict their speakers."""
    sides, ids = pd.factorize(pd.concat([trials["enroll_id"], trials["test_id"]]))
    speakers, _ = pd.factorize(pd.Series(ids).map(speaker_of))
    enroll, test = np.split(sides, 2)
    pairs = np.minimum(enroll, test) * len(ids) + np.maximum(enroll, test)
    return {
        "num_repeated": len(pairs) - len(np.unique(pairs)),
        "num_self": int((enroll == test).sum()),
        "num_mislabelled": int(((speakers[enroll] == speakers[test]) != (trials["label"] == 1)).sum()),
    }


def _description(row: Mapping[str, Any], published: PublishedList | None) -> str:
    """A row of the trial_lists table as a line to read."""
    num_trials = row["num_target"] + row["num_nontarget"]
    text = f"{row['trial_list']}: {num_trials:,} trials, {row['num_target']:,} of them targets, {row['file']}"
    if row["official"]:
        text += ", the official list"
    elif published is not None and published.num_trials == num_trials:
        text += ", as many as the official list, but not the same (MD5)"
    elif published is not None:
        text += f", not the official list of {published.num_trials:,}"
    oddities = {
        "repeated": row["num_repeated"],
        "of an utterance with itself": row["num_self"],
        "labelled against their speakers": row["num_mislabelled"],
    }
    return "; ".join([text, *(f"{count:,} {what}" for what, count in oddities.items() if count)])
