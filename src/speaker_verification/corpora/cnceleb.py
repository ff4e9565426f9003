"""CN-Celeb 1 and 2 (Fan et al. 2020, Li et al. 2022): Chinese celebrities in eleven genres, from the web.

https://www.openslr.org/82
"""

from __future__ import annotations

from speaker_verification.corpora.corpus import (
    Archive,
    ArchivedFile,
    Corpus,
    Form,
    Layout,
    PublishedList,
    Subset,
)

_HOSTS = ("{openslr}/82",)
_RECORDING = r"(?P<utterance>(?P<session>[a-z_]+-\d+)-\d+)\.(?:flac|wav|m4a)"
_DEV, _EVAL = r"id00[0-7]\d\d", r"id00[89]\d\d"


def _layout(expected: str, pattern: str, skipped: str | None = None) -> Layout:
    """Layout of paths below any folders; a session is a video, which has one genre."""
    top = r"(?:.*/)?"
    return Layout(expected, top + pattern, skipped and f"{top}(?:{skipped})", prefix="cnceleb-")


def _member_of(name: str) -> str:
    """Path of `id00800-enroll`, an enrolment model, or of `test/id00800-singing-01-001.wav`."""
    return f"eval/{name}" if "/" in name else f"eval/enroll/{name}.flac"


# MD5s as in wespeaker (examples/cnceleb/v2/local/download_data.sh); OpenSLR publishes none.
_ARCHIVE_1 = Archive("cn-celeb_v2.tar.gz", _HOSTS, "7ab1b214028a7439e26608b2d5a0336c")
_ARCHIVE_2 = Archive(
    "cn-celeb2_v2.tar.gz",
    _HOSTS,
    "55c47cf0b6d0bf793e88bf79d5dfc660",
    "cn-celeb2_v2.tar.gz",
    # Those of the parts as in kiwano's download script.
    (
        "4cdf738cff565ce35ad34274848659c3",
        "4ff59a7009b79ef7043498ad3882b81b",
        "3aa8e6e7f7ec4382f9926b1b31498228",
    ),
)
_UNPACKED_1 = (Form("CN-Celeb_flac"), Form("CN-Celeb_wav"), Form("CN-Celeb"))
_TRAINING_SHARDS = "cnceleb_train/shard.list"  # of both training sets, as wespeaker makes it
CNCELEB = Corpus(
    "cnceleb",
    licence="CC BY-SA 4.0",
    layout=_layout("CN-Celeb2_flac/data/id1NNNN/GENRE-NN-NNN.flac", rf"(?P<speaker>id1\d{{4}})/{_RECORDING}"),
    subsets={
        "cnceleb1-dev": Subset(
            _ARCHIVE_1,
            num_speakers=797,
            num_utterances=107_953,
            layout=_layout(
                "CN-Celeb_flac/data/id00NNN/GENRE-NN-NNN.flac",
                rf"(?P<speaker>{_DEV})/{_RECORDING}",
                skipped=rf"eval/.+|data/{_EVAL}/[^/]+",
            ),
            forms=(*_UNPACKED_1, Form(_TRAINING_SHARDS, rf"(?:.*/)?{_DEV}/[^/]+")),
        ),
        # Each recording of eval/enroll joins those of a speaker that eval/lists/enroll.map names.
        "cnceleb1-eval": Subset(
            _ARCHIVE_1,
            num_speakers=200,
            num_utterances=196 + 17_777,
            layout=_layout(
                "CN-Celeb_flac/eval/enroll/id00NNN-enroll.flac or .../eval/test/id00NNN-GENRE-NN-NNN.flac",
                rf"(?:enroll|test)/(?P<speaker>{_EVAL})-"
                r"(?P<utterance>(?P<session>enroll(?=\.)|[a-z_]+-\d+(?=-))(?:-\d+)?)\.(?:flac|wav|m4a)",
                skipped=r"data/id00\d{3}/[^/]+",
            ),
            forms=(*_UNPACKED_1, Form("eval/shard.list", r"(?:.*/)?(?:enroll|test)/[^/]+")),
        ),
        "cnceleb2-dev": Subset(
            _ARCHIVE_2,
            num_speakers=1_996,
            num_utterances=524_787,
            forms=(
                Form("CN-Celeb2_flac"),
                Form("CN-Celeb2_wav"),
                Form("CN-Celeb2"),
                Form(_TRAINING_SHARDS, r"(?:.*/)?id1\d{4}/[^/]+"),
            ),
        ),
    },
    unions={"cnceleb12-dev": ("cnceleb1-dev", "cnceleb2-dev")},
    trial_lists={
        "cnceleb_e": PublishedList(
            ArchivedFile("eval/lists/trials.lst", subset="cnceleb1-eval"),
            ("cnceleb1-eval",),
            num_trials=196 * 17_777,
            md5=None,
            columns=("enroll_id", "test_id", "label"),
            member_of=_member_of,
        )
    },
)
