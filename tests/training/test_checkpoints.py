from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.heads import HeadSettings, build_head
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.heads.sphereface2 import SphereFace2
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training import checkpoints
from speaker_verification.training.checkpoints import BestCheckpoints, load_head, save_checkpoint
from speaker_verification.training.kept_epochs import RANKING_FILE, best_checkpoint
from speaker_verification.training.start import start_phase
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import phase_settings

MODEL = tiny_settings(TINY_WAVLM)
HEAD = HeadSettings(aam_softmax=AamSoftmaxSettings(num_subcentres=2))
RUN: dict[str, Any] = {"speaker_ids": ["a", "b", "c"], "head": HEAD.model_dump()}


@pytest.fixture
def model(tmp_path: Path) -> SpeakerModel:
    save_encoder(MODEL.frontend, tmp_path / "encoder", seed=1)
    return SpeakerModel.from_encoder(tmp_path / "encoder", MODEL)


@pytest.fixture
def head() -> SubcentreMarginHead:
    return SubcentreMarginHead(10, 3, HEAD.chosen)


def test_the_best_stay_and_the_later_of_equals_is_ahead(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    kept = BestCheckpoints(tmp_path / "best", keep=2)
    for epoch, eer in ((1, 8.0), (2, 5.0), (3, 9.0), (4, 5.0)):
        kept.save_if_best(epoch, eer, model, head, RUN)
    assert [ranked.epoch for ranked in kept.ranking] == [4, 2]
    assert best_checkpoint(tmp_path / "best").name == "epoch_04"
    assert best_checkpoint(tmp_path / "best", rank=2).name == "epoch_02"
    with pytest.raises(ParameterError, match=r"'choose_top' is 3: .* keeps 2 checkpoints"):
        best_checkpoint(tmp_path / "best", rank=3)
    kept.prune()
    assert {path.name for path in (tmp_path / "best").iterdir()} == {RANKING_FILE, "epoch_02", "epoch_04"}


def test_the_last_stay_where_the_newest_come_first(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    kept = BestCheckpoints(tmp_path / "last", keep=2, newest_first=True)
    for epoch, eer in ((1, 5.0), (2, 8.0), (3, 9.0)):
        kept.save_if_best(epoch, eer, model, head, RUN)
    assert [(ranked.epoch, ranked.eer) for ranked in kept.ranking] == [(3, 9.0), (2, 8.0)]


def test_an_earlier_ranking_can_be_gone_back_to_until_what_it_dropped_is_forgotten(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    kept = BestCheckpoints(tmp_path, keep=1)
    kept.save_if_best(1, 8.0, model, head, RUN)
    before = kept.state_dict()
    kept.save_if_best(2, 5.0, model, head, RUN)
    again = BestCheckpoints(tmp_path, keep=1)
    again.load_state_dict(before)
    again.save_if_best(2, 5.0, model, head, RUN)
    again.prune()
    assert best_checkpoint(tmp_path).name == "epoch_02"
    with pytest.raises(DataError, match="lacks epoch_01, which training had kept there"):
        again.load_state_dict(before)


def test_a_save_that_fails_costs_nothing(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "epoch_01", model, head, RUN)

    def disk_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "epoch_01", model, head, RUN)
    again, _, run = load_head(tmp_path / "epoch_01", "cpu")
    assert torch.equal(again.weight, head.weight)
    assert run == RUN | {"embedding_size": 10, "num_classes": 3, "class_speeds": [1.0]}


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no checkpoints of a phase"):
        best_checkpoint(tmp_path)
    with pytest.raises(DataError, match="is no complete checkpoint"):
        load_head(tmp_path, "cpu")


def test_a_checkpoint_from_before_heads_had_kinds_loads(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, model, head, RUN)
    flat = {
        "num_subcentres": 2,
        "scale": 15.0,
        "initialisation": "xavier_normal",
        "continuation": "wespeaker",
    }
    (tmp_path / "run.json").write_text(json.dumps({"speaker_ids": ["a", "b", "c"], "head": flat}))
    again, settings, _ = load_head(tmp_path, "cpu")
    assert isinstance(again, SubcentreMarginHead)
    assert torch.equal(again.weight, head.weight)
    assert again.num_classes == 3
    assert (again.scale, again.fallback) == (15.0, "wespeaker")
    assert settings.in_use == {
        "kind": "aam_softmax",
        "num_subcentres": 2,
        "scale": 15.0,
        "initialisation": "xavier_normal",
        "fallback": "wespeaker",
    }
    save_file({"bias": torch.zeros(3)}, tmp_path / "head.safetensors")
    with pytest.raises(DataError, match="lacks 'weight' of three dimensions"):
        load_head(tmp_path, "cpu")


def test_a_phase_starts_with_the_head_of_the_phase_before_or_is_refused(
    model: SpeakerModel, tmp_path: Path
) -> None:
    settings = HeadSettings(kind="sphereface2")
    other = build_head(settings, 10, 3)
    best = BestCheckpoints(tmp_path, keep=1)
    best.save_if_best(1, 5.0, model, other, RUN | {"head": settings.model_dump()})
    arguments = (RUN["speaker_ids"], torch.device("cpu"))
    _, again = start_phase(tmp_path, phase_settings(), MODEL, settings, *arguments)
    assert isinstance(again, SphereFace2)
    assert torch.equal(again.weight, other.weight)
    with pytest.raises(ParameterError, match=r"'head' is .*aam_softmax.*sphereface2"):
        start_phase(tmp_path, phase_settings(), MODEL, HEAD, *arguments)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n"


def test_a_file_of_a_checkpoint_that_is_something_else_is_named(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    best = BestCheckpoints(tmp_path / "best", keep=1)
    best.save_if_best(1, 5.0, model, head, RUN)
    folder = best_checkpoint(tmp_path / "best")
    weights = {name: (folder / name).read_bytes() for name in ("head.safetensors", "run.json")}
    for name, content in weights.items():
        for spoilt, message in (
            (POINTER, "is a Git LFS pointer"),
            (b"", "is empty"),
            (content[: len(content) // 2], "cut short|cannot be read as JSON"),
            (b"[1]" + bytes(100), "cannot be read as"),
        ):
            (folder / name).write_bytes(spoilt)
            with pytest.raises(DataError, match=rf"is no complete checkpoint .*{name}.*{message}") as error:
                load_head(folder, "cpu")
            assert "\n" not in str(error.value)
        (folder / name).write_bytes(content)
    for change, message in (
        ({"head": None}, "lacks 'head'"),
        ({"speaker_ids": "abc"}, "lacks 'speaker_ids'"),
        ({"embedding_size": 10}, "lacks 'num_classes'"),
    ):
        (folder / "run.json").write_text(json.dumps(RUN | change))
        with pytest.raises(DataError, match=rf"run\.json' {message}"):
            load_head(folder, "cpu")
    (folder / "run.json").write_bytes(weights["run.json"])
    for other in ({"bias": torch.zeros(3)}, {"weight": torch.zeros(3)}):
        save_file(other, folder / "head.safetensors")
        with pytest.raises(DataError, match=r"head\.safetensors' does not fit the model"):
            load_head(folder, "cpu")
    (folder / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"model\.safetensors' cannot be read as weights: it is a Git LFS"):
        best.load_average(model, head, 1)
    for ranking in ("{}", "[1]", '[{"epoch": 1}]', "null"):
        (tmp_path / "best" / "ranking.json").write_text(ranking)
        with pytest.raises((DataError, ParameterError), match="best"):
            best_checkpoint(tmp_path / "best")
