"""The trial lists that have a name: VoxCeleb1's published ones, and those drawn over LibriSpeech."""

from __future__ import annotations

from dataclasses import dataclass


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
