"""MUSAN (Snyder et al. 2015): noises, music and speech to augment with. https://www.openslr.org/17"""

from __future__ import annotations

import re

from speaker_verification.corpora.corpus import Archive, Corpus, Layout, Subset

MUSAN = Corpus(
    "musan",
    licence="CC BY 4.0",  # as a whole; single files are in the public domain or under other CC licences
    layout=Layout(
        "musan/KIND/SOURCE/NAME.wav, KIND noise, music or speech (any folders in front)",
        r"(?:.*/)?musan/(?P<file_id>(?P<kind>noise|music|speech)/[^/]+/[^/]+\.wav)",
    ),
    subsets={"musan": Subset(Archive("musan.tar.gz", ("{openslr}/17",), "0c472d4fc0c5141eca47ad1ffeb2a7df"))},
    content="noises",
)
# Of music: a line NAME GENRES VOCALS ARTIST ... for each clip, VOCALS Y or N.
ANNOTATIONS = re.compile(r"(?:.*/)?musan/(?P<folder>music/[^/]+)/ANNOTATIONS")
MUSAN_ARCHIVE = MUSAN.subsets["musan"].archive
