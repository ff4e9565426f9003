"""VoxCeleb 1 and 2 (Nagrani et al. 2017, Chung et al. 2018): celebrities in interviews, from YouTube.

https://mm.kaist.ac.kr/datasets/voxceleb
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from speaker_verification.common.errors import DataError
from speaker_verification.corpora.conversion.sources import Source
from speaker_verification.corpora.corpus import (
    Archive,
    Corpus,
    Form,
    HostedFile,
    Layout,
    MetadataFile,
    PublishedList,
    Subset,
)
from speaker_verification.corpora.texts import decode_text

_WITH_CREDENTIALS = ("{mmai}", "{kaist}")
_META = ("{vgg}",)
_VOXCELEB1 = ("vox1-dev", "vox1-test")
_COLUMNS = {"VoxCeleb1 ID": "speaker_id", "Gender": "gender", "Nationality": "nationality"}

# Below the archives' own folders (wav, dev/aac, aac) a speaker may have any name, elsewhere only idNNNNN.
_LAYOUT = Layout(
    "wav/SPEAKER/SESSION/UTTERANCE.wav, .m4a or .flac, or dev/aac/..., aac/... (any folders in front), or "
    "idNNNNN/SESSION/UTTERANCE.wav, .m4a or .flac",
    r"(?:(?!(?:wav|aac|id\d+)/)[^/]+/)*(?:(?:wav|aac)/|(?=id\d+/))"
    r"(?!(?:wav|aac|dev)/)(?P<speaker>[^/]+)/(?P<session>[^/]+)/(?P<utterance>[^/]+)\.(?:wav|m4a|flac)",
)


# VoxCeleb1 is often unpacked into one folder, in which the speakers tell the test set from the rest.
_TEST_SPEAKER = r"(?:.*/)?id10(?:2[7-9]|30)\d/.+"
_DEV_SPEAKER = rf"(?!{_TEST_SPEAKER})(?:.*/)?id1\d{{4}}/.+"


def _read_speakers(mirror: Path, sources: Mapping[str, Source]) -> pd.DataFrame | None:
    """Rows of vox1_meta.csv: tab-separated, with the columns of its header (VoxCeleb1 ID, Gender, ...)."""
    path = mirror / "vox1_meta.csv"
    if {*_VOXCELEB1}.isdisjoint(sources) or not path.is_file():
        return None
    try:
        text = io.StringIO(decode_text(path.read_bytes()))
        table = pd.read_csv(text, sep="\t", dtype=str, na_filter=False, quoting=csv.QUOTE_NONE)
        return table[list(_COLUMNS)].rename(columns=_COLUMNS)
    except (KeyError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: not tab-separated columns with {', '.join(_COLUMNS)}: {error}") from error


def _list(file: str, subsets: tuple[str, ...], num_trials: int, md5: str) -> PublishedList:
    return PublishedList(HostedFile(file, _META), subsets, num_trials, md5)


# Numbers of trials and MD5 as in PaddleSpeech (examples/voxceleb/README.md, dataset/voxceleb/voxceleb1.py).
PUBLISHED_LISTS = {
    "vox1_o": _list("veri_test2.txt", ("vox1-test",), 37_611, "b73110731c9223c1461fe49cb48dddfc"),
    "vox1_e": _list("list_test_all2.txt", _VOXCELEB1, 579_818, "a53e059deb562ffcfc092bf5d90d9f3a"),
    "vox1_h": _list("list_test_hard2.txt", _VOXCELEB1, 550_894, "857790e09d579a68eb2e339a090343c8"),
    "vox1_o_original": _list("veri_test.txt", ("vox1-test",), 37_720, "29fc7cc1c5d59f0816dc15d6e8be60f7"),
    "vox1_e_original": _list("list_test_all.txt", _VOXCELEB1, 581_480, "b9ecf7aa49d4b656aa927a8092844e4a"),
    "vox1_h_original": _list("list_test_hard.txt", _VOXCELEB1, 552_536, "21c341b6b2168eea2634df0fb4b8fff1"),
}
VOXCELEB = Corpus(
    "voxceleb",
    licence="CC BY 4.0",
    layout=_LAYOUT,
    subsets={
        "vox1-dev": Subset(
            Archive(
                "vox1_dev_wav.zip",
                _WITH_CREDENTIALS,
                "ae63e55b951748cc486645f532ba230b",
                "vox1_dev_wav_part",
                (
                    "e395d020928bc15670b570a21695ed96",
                    "bbfaaccefab65d82b21903e81a8a8020",
                    "017d579a2a96a077f40042ec33e51512",
                    "7bb1e9f70fddc7a678fa998ea8b3ba19",
                ),
            ),
            num_speakers=1_211,
            num_utterances=148_642,
            forms=(
                Form("vox1_dev_wav"),
                Form("voxceleb1/dev/wav"),
                *(
                    Form(path, _DEV_SPEAKER)
                    for path in ("wav", "voxceleb1/wav", "voxceleb1", "vox1/shard.list")
                ),
            ),
        ),
        "vox1-test": Subset(
            Archive("vox1_test_wav.zip", _WITH_CREDENTIALS, "185fdc63c3c739954633d50379a3d102"),
            num_speakers=40,
            num_utterances=4_874,
            forms=(
                Form("vox1_test_wav"),
                Form("voxceleb1/test/wav"),
                *(
                    Form(path, _TEST_SPEAKER)
                    for path in ("wav", "voxceleb1/wav", "voxceleb1", "vox1/shard.list")
                ),
            ),
        ),
        "vox2-dev": Subset(
            Archive(
                "vox2_dev_aac.zip",
                _WITH_CREDENTIALS,
                "bbc063c46078a602ca71605645c2a402",
                "vox2_dev_aac_part",
                (
                    "da070494c573e5c0564b1d11c3b20577",
                    "17fe6dab2b32b48abaf1676429cdd06f",
                    "1de58e086c5edf63625af1cb6d831528",
                    "5a043eb03e15c5a918ee6a52aad477f9",
                    "cea401b624983e2d0b2a87fb5d59aa60",
                    "fc886d9ba90ab88e7880ee98effd6ae9",
                    "d160ecc3f6ee3eed54d55349531cb42e",
                    "6b84a81b9af72a9d9eecbb3b1f602e65",
                ),
            ),
            num_speakers=5_994,
            num_utterances=1_092_009,
            forms=(
                Form("dev/aac"),
                Form("vox2_dev_aac"),
                Form("voxceleb2/dev/aac"),
                Form("voxceleb2-dev-*.tar"),  # https://huggingface.co/datasets/gaunernst/voxceleb2-dev-wds
                Form("vox2_dev/shard.list"),
                Form("voxceleb2/wav"),
            ),
        ),
        "vox2-test": Subset(
            Archive("vox2_test_aac.zip", _WITH_CREDENTIALS, "0d2b3ea430a821c33263b5ea37ede312"),
            num_speakers=118,
            num_utterances=36_237,
            forms=(
                Form("aac"),
                Form("test/aac"),
                Form("vox2_test_aac"),
                Form("voxceleb2/test/aac"),
                Form("vox2_test/shard.list"),
            ),
        ),
    },
    unions={
        "voxceleb1-dev": ("vox1-dev",),
        "voxceleb2-dev": ("vox2-dev",),
        "voxceleb2-test": ("vox2-test",),
        "voxceleb12-dev": ("vox1-dev", "vox2-dev"),
    },
    trial_lists=PUBLISHED_LISTS,
    metadata=(MetadataFile("vox1_meta.csv", _META, subsets=_VOXCELEB1),),
    read_speakers=_read_speakers,
)
