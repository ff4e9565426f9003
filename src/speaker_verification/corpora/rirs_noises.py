"""RIRS_NOISES (Ko et al. 2017): simulated and measured RIRs. https://www.openslr.org/28"""

from __future__ import annotations

from speaker_verification.corpora.corpus import Archive, Corpus, Layout, Subset

ROOT = "RIRS_NOISES"
RIR_LIST = f"{ROOT}/real_rirs_isotropic_noises/rir_list"  # names the measured RIRs among other recordings

RIRS_NOISES = Corpus(
    "rirs_noises",
    licence="Apache 2.0",
    layout=Layout(
        f"{ROOT}/simulated_rirs/SIZE/ROOM/NAME.wav, or a file below {ROOT} (any folders in front)",
        rf"(?:.*/)?{ROOT}/(?P<file_id>simulated_rirs/[^/]+/[^/]+/[^/]+\.wav)",
        skipped=rf"(?:.*/)?{ROOT}/.+",  # noises, and measured RIRs that the list does not name
    ),
    subsets={
        "rirs_noises": Subset(
            Archive("rirs_noises.zip", ("{openslr}/28",), "e6f48e257286e05de56413b4779d8ffb")
        )
    },
    content="rirs",
)
RIRS_NOISES_ARCHIVE = RIRS_NOISES.subsets["rirs_noises"].archive
