"""Agreement of the ways from two recordings to a decision."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import soundfile

from tests.support.agreement import COSINE_LLR, compared_in_all_ways, write_pairs
from tests.support.verifiers import TEST_SPEAKERS, Measured, voice
from tests.support.verifiers import measured as measured


@pytest.mark.project
def test_all_ways_give_the_same_scores_and_decisions(measured: Measured, tmp_path: Path) -> None:
    for name in ("verifier", "recordings", "pieces", "workspace"):
        (tmp_path / name).mkdir()
    measured[0].save_pretrained(tmp_path / "verifier")
    for speaker in TEST_SPEAKERS:
        folder = tmp_path / "recordings" / f"{speaker}"
        folder.mkdir()
        for utterance in range(40):
            soundfile.write(folder / f"{utterance:02}.wav", voice(speaker, utterance), 16_000)
    pairs = write_pairs(tmp_path / "recordings", tmp_path / "pieces", 20)
    assert {soundfile.info(file).duration for pair in pairs for file in pair} == {1, 7, 30}
    ways = compared_in_all_ways(tmp_path / "verifier", pairs, tmp_path / "workspace")
    expected = ways.pop("Verifier.compare")
    assert 0 < expected["accept"].sum() < 20
    assert set(expected) == {"cosine", "as_norm", "qmf", "llr", "probability", "accept", COSINE_LLR}
    for way, found in ways.items():
        assert set(found) == ({"cosine", COSINE_LLR} if way == "ONNX" else set(expected) - {COSINE_LLR})
        pd.testing.assert_frame_equal(found, expected[list(found)], rtol=0, atol=1e-4)
