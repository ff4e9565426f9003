"""The registered corpora, and corpora from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.corpora import registry
from speaker_verification.corpora.augmentation import check_rirs, extract_musan, extract_rirs
from speaker_verification.corpora.conversion.convert import refuse_too_many_rejected
from speaker_verification.corpora.conversion.sources import ArchiveSource
from speaker_verification.corpora.corpus import Archive, Corpus, Layout, Subset
from speaker_verification.corpora.registry import CORPORA, add_corpus, corpus_of, named_subsets
from speaker_verification.corpora.rirs_noises import RIR_LIST
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.corpora.utterances import convert_subset, list_subset
from tests.support.corpora import noise, tarred, wav, zipped

SUBSETS = [(corpus.name, subset) for corpus in CORPORA.values() for subset in corpus.subsets]

# Paths of other corpora, and the speakers that they are of.
STRANGERS = {
    "CN-Celeb_flac/data/id00001/song-01-001.flac": "id00001",
    "CN-Celeb/data/id00001/song-01-001.wav": "id00001",
    "mine/alice/rec1.wav": "alice",
    "my corpus/mine/alice/rec1.wav": "alice",
    "alice/rec1.wav": "alice",
    "rec1.wav": "",
    "VCTK-Corpus/wav48/p225/p225_001.wav": "p225",
    "TIMIT/TRAIN/DR1/FCJF0/SA1.wav": "FCJF0",
    "clips/common_voice_en_1.mp3": "",
}


def speaker_in(corpus: Corpus, subset: str, member: str) -> str | None:
    """Speaker of a member, the first part of an utterance's id; None where the layout refuses the member."""
    parsed = corpus.layout_of(subset).parse(member)
    return parsed.file_id.split("/")[0] if parsed else None


@pytest.mark.parametrize("member", STRANGERS)
@pytest.mark.parametrize(("name", "subset"), SUBSETS)
def test_no_corpus_gives_a_stranger_another_speaker(name: str, subset: str, member: str) -> None:
    prefix = CORPORA[name].layout_of(subset).prefix
    assert speaker_in(CORPORA[name], subset, member) in (None, prefix + STRANGERS[member])


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(("name", "subset"), SUBSETS)
def test_an_archive_of_strangers_is_refused_with_corpus_archive_member_and_layout(
    tmp_path: Path, name: str, subset: str, pack: Callable[..., bytes]
) -> None:
    corpus = CORPORA[name]
    layout = corpus.layout_of(subset)
    strangers = [
        member
        for member in ("CN-Celeb_flac/data/id00001/song-01-001.flac", "mine/alice/rec1.wav", "rec1.wav")
        if layout.parse(member) is None and not layout.skips(member)
    ]
    assert strangers
    archive = tmp_path / corpus.subsets[subset].archive.name
    members = {member: wav(noise(1)) for member in strangers}
    archive.write_bytes(pack({**members, "README": b"hello", RIR_LIST: b""}))
    runs: dict[str, list[Callable[[], object]]] = {
        "speech": [
            lambda: refuse_too_many_rejected(list_subset(subset, ArchiveSource([archive]))[1], 1, 1.0),
            lambda: convert_subset(subset, ArchiveSource([archive]), tmp_path / "audio", 0.5, 1.0, 0),
        ],
        "noises": [lambda: extract_musan(archive, tmp_path / "audio", 1.0)],
        "rirs": [lambda: check_rirs(archive, 1.0), lambda: extract_rirs(archive, tmp_path / "audio", 1.0)],
    }
    for run in runs[corpus.content]:
        with pytest.raises(DataError) as caught:
            run()
        for part in (name, subset, archive.name, layout.expected, *(f"'{member}'" for member in strangers)):
            assert part in str(caught.value)
    assert not list((tmp_path / "audio").rglob("*.wav"))


@pytest.mark.parametrize(("name", "subset"), SUBSETS)
def test_members_that_are_no_recordings_are_no_utterances(name: str, subset: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    texts = ("README", "wav/id10001/s/words.txt", "LibriSpeech/dev-clean/84/1/84-1.trans.txt", "a/b/LICENSE")
    archive.write_bytes(zipped({**dict.fromkeys(texts, b"hello"), RIR_LIST: b""}))
    if CORPORA[name].content == "speech":
        with pytest.raises(DataError, match=rf"a\.zip: holds no recording of {subset}"):
            list_subset(subset, ArchiveSource([archive]))
    else:
        extract = {"noises": extract_musan, "rirs": extract_rirs}[CORPORA[name].content]
        with pytest.raises(DataError, match="no recordings"):
            extract(archive, tmp_path / "audio", 1.0)


def test_names_of_subsets_lists_and_files_are_of_one_corpus_each() -> None:
    for names in (
        [name for corpus in CORPORA.values() for name in (*corpus.subsets, *corpus.unions)],
        [name for corpus in CORPORA.values() for name in corpus.trial_lists],
        [name for corpus in CORPORA.values() for name in {file.name for file in corpus.files()}],
    ):
        assert len(names) == len({*names})


def test_every_union_is_of_known_subsets() -> None:
    for parts in named_subsets().values():
        assert all(corpus_of(part).subsets for part in parts)
    assert named_subsets()["voxceleb12-dev"] == ("vox1-dev", "vox2-dev")
    assert named_subsets()["librispeech-dev-clean"] == ("librispeech-dev-clean",)


MODULE = """
from speaker_verification.corpora.conversion.convert import refuse_too_many_rejected
from speaker_verification.corpora.corpus import Archive, Corpus, DrawnList, Layout, Subset

MINE = Corpus(
    "mine",
    licence="mine",
    layout=Layout("mine/SPEAKER/UTTERANCE.wav", r"mine/(?P<speaker>[^/]+)/(?P<utterance>[^/]+)\\.wav"),
    subsets={"mine": Subset(Archive("mine.zip"))},
    trial_lists={"mine": DrawnList("mine")},
)
CLASH = Corpus("clash", "mine", MINE.layout, {"vox1-dev": Subset(Archive("other.zip"))})
"""


@pytest.fixture
def my_package(import_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with the corpora MINE and CLASH."""
    monkeypatch.setattr(registry, "_added", {})
    (import_folder / "my_package.py").write_text(MODULE)
    return "my_package"


def test_a_corpus_of_another_package_is_prepared_by_its_dotted_name(my_package: str, tmp_path: Path) -> None:
    values = {
        "other_corpora": [f"{my_package}.MINE"],
        "subsets": ["mine"],
        "trial_lists": ["mine"],
        "training_set": "mine",
        "allow_seen_speakers": True,
    }
    for _ in range(2):  # nodes validate the same parameters again
        assert PrepareSettings.parse(values, "prepare").subsets == ("mine",)
    archive = tmp_path / "mine.zip"
    archive.write_bytes(zipped({"mine/alice/rec1.wav": wav(noise(1)), "mine/bob/rec1.wav": wav(noise(2))}))
    utterances, _ = convert_subset("mine", ArchiveSource([archive]), tmp_path / "audio", 0.5, 0.0, 0)
    assert utterances["utterance_id"].tolist() == ["alice/rec1/rec1.wav", "bob/rec1/rec1.wav"]
    assert utterances["speaker_id"].tolist() == ["alice", "bob"]


def test_its_names_are_known_only_with_it(my_package: str) -> None:
    with pytest.raises(ParameterError, match=r"'prepare\.subsets\.0': unknown subset 'mine'"):
        PrepareSettings.parse({"subsets": ["mine"]}, "prepare")


def test_a_corpus_that_takes_anothers_name_is_refused(my_package: str) -> None:
    with pytest.raises(ParameterError, match=r"CLASH': another corpus has the subset vox1-dev"):
        add_corpus(f"{my_package}.CLASH")


def test_a_layout_without_a_speaker_is_refused() -> None:
    with pytest.raises(ValueError, match="speaker"):
        Corpus("x", "x", Layout("NAME.wav", r"(?P<utterance>.+)\.wav"), {"x": Subset(Archive("x.zip"))})
