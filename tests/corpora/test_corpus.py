"""Identities that the layouts of the corpora give to members of their archives."""

from __future__ import annotations

import pytest

from speaker_verification.corpora.corpus import Layout
from speaker_verification.corpora.librispeech import LIBRISPEECH
from speaker_verification.corpora.musan import MUSAN
from speaker_verification.corpora.voxceleb import VOXCELEB


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("wav/id10001/x-Y_z/00001.wav", "id10001/x-Y_z/00001.wav"),
        ("dev/aac/id00012/-21/00001.m4a", "id00012/-21/00001.wav"),
        ("aac/id00017/01dfn2spqyE/00001.m4a", "id00017/01dfn2spqyE/00001.wav"),
        ("id1/s/1.wav", "id1/s/1.wav"),
        ("my/corpus/id1/s/1.wav", "id1/s/1.wav"),
        ("my/corpus/wav/id1/s/1.wav", "id1/s/1.wav"),
        ("corpus/wav/Zo\u00eb/s/4.flac", "Zo\u00eb/s/4.wav"),
        ("wav/id1/dev/1.wav", "id1/dev/1.wav"),
        ("wav/id1/wav/1.wav", "id1/wav/1.wav"),
        ("id1/dev/1.wav", "id1/dev/1.wav"),
        ("s/1.wav", None),
        ("wav/id1/1.wav", None),
        ("dev/aac/id00012/00001.m4a", None),
        ("aac/dev/id00012/00001.m4a", None),
        ("wav/id1/s/part/1.wav", None),
        ("wav/id1/id2/part/1.wav", None),
        ("id1/id2/s/1.wav", None),
        ("dev/alice/s/1.wav", None),
        ("alice/s/1.wav", None),
        ("LibriSpeech/test-clean/19/19-198-0000.flac", None),
        ("wav/id1/s/1.txt", None),
        ("wav/id1/s/wav", None),
        ("wav/id1/s/.wav", None),
    ],
)
def test_a_member_of_voxceleb_gives_its_utterance(member: str, expected: str | None) -> None:
    parsed = VOXCELEB.layout.parse(member)
    assert (parsed and parsed.file_id) == expected


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("LibriSpeech/test-clean/19/198/19-198-0000.flac", "19/198/19-198-0000.wav"),
        ("top/train-clean-100/19/198/19-198-0000.flac", "19/198/19-198-0000.wav"),
        ("LibriSpeech/test-clean/19/19-198-0000.flac", None),
        ("LibriSpeech/test-clean/19/198/20-198-0000.flac", None),
        ("LibriSpeech/test-clean/19/198/19-199-0000.flac", None),
        ("wav/id1/s/1.wav", None),
    ],
)
def test_a_member_of_librispeech_gives_its_utterance(member: str, expected: str | None) -> None:
    parsed = LIBRISPEECH.layout.parse(member)
    assert (parsed and parsed.file_id) == expected


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("musan/noise/free-sound/n-0.wav", ("noise/free-sound/n-0.wav", "noise")),
        ("data/musan/speech/us-gov/s-0.wav", ("speech/us-gov/s-0.wav", "speech")),
        ("musan/jingles/x/1.wav", None),
        ("musan/noise/1.wav", None),
        ("noise/free-sound/n-0.wav", None),
    ],
)
def test_a_member_of_musan_gives_its_clip_and_kind(member: str, expected: tuple[str, str] | None) -> None:
    assert MUSAN.layout.parse(member) == expected


def test_a_corpus_without_sessions_has_one_for_every_recording() -> None:
    layout = Layout("SPEAKER/UTTERANCE.wav", r"(?P<speaker>[^/]+)/(?P<utterance>[^/]+)\.wav")
    parsed = layout.parse("alice/rec1.wav")
    assert parsed is not None
    assert parsed.file_id == "alice/rec1/rec1.wav"
