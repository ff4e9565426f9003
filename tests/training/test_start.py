from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.audio.files import read_audio
from speaker_verification.audio.speed import change_speed
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import NOISE_CLIPS, RIRS
from speaker_verification.data.examples import TrainingExamples
from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.heads import Head, HeadSettings, build_head
from speaker_verification.models.heads.aam_softmax import AamSoftmaxSettings, SubcentreMarginHead
from speaker_verification.models.settings import ModelSettings, read_saved_configuration
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.training.checkpoints import BestCheckpoints, load_head, save_checkpoint
from speaker_verification.training.class_means import mean_embeddings
from speaker_verification.training.classifier import SpeakerClassifier
from speaker_verification.training.kept_epochs import best_checkpoint, saved_model
from speaker_verification.training.run import PhaseJob, PhaseTables, run_phase
from speaker_verification.training.start import NewClasses, start_from_model, start_phase
from tests.support.processes import run_processes, values_of
from tests.support.tiny_models import TINY_WAVLM, tiny_settings
from tests.support.training import HEAD, MODEL, Watcher, phase_settings

CPU = torch.device("cpu")
RUN: dict[str, Any] = {"speaker_ids": ["a", "b", "c"], "head": HEAD.model_dump()}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_encoder(MODEL.frontend, tmp_path / "encoder", seed=1)
    return tmp_path / "encoder"


@pytest.fixture
def model(encoder: Path) -> SpeakerModel:
    return SpeakerModel.from_encoder(encoder, MODEL)


@pytest.fixture
def head() -> SubcentreMarginHead:
    return SubcentreMarginHead(10, 3, HEAD.chosen)


def test_after_an_encoder_there_is_a_class_for_every_speaker_at_every_speed(encoder: Path) -> None:
    phase = phase_settings(speed_factors=[1.0, 0.9, 1.1])
    torch.manual_seed(0)
    model, head = start_phase(encoder, phase, MODEL, HEAD, ["a", "b"], CPU)
    assert head.num_classes == 6
    again, _ = start_phase(encoder, phase, MODEL, HEAD, ["a", "b"], CPU)
    same = {name: torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()}
    assert all(same[name] for name in same if name.startswith("frontend."))
    assert not same["speaker_network.projection.weight"]  # drawn anew


def test_after_a_phase_both_are_those_of_the_chosen_epoch(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    kept = BestCheckpoints(tmp_path / "best", keep=2)
    for epoch, eer in ((1, 5.0), (2, 8.0)):
        torch.nn.init.constant_(head.weight, epoch)
        torch.nn.init.constant_(model.speaker_network.projection.weight, epoch)
        kept.save_if_best(epoch, eer, model, head, RUN)
    for choose_top, epoch in ((1, 1), (2, 2)):
        phase = phase_settings(choose_top=choose_top)
        chosen, its_head = start_phase(tmp_path / "best", phase, MODEL, HEAD, RUN["speaker_ids"], CPU)
        assert (chosen.speaker_network.projection.weight == epoch).all()
        assert (its_head.weight == epoch).all()


def test_other_speakers_than_the_phase_before_are_refused(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    BestCheckpoints(tmp_path / "best", keep=1).save_if_best(1, 5.0, model, head, RUN)
    with pytest.raises(DataError, match="trained on 3 speakers that are not the 2 of today"):
        start_phase(tmp_path / "best", phase_settings(), MODEL, HEAD, ["a", "b"], CPU)
    with pytest.raises(ParameterError, match=r"'speed_factors' has classes at 1.0, 0.9, and .* at 1.0: "):
        start_phase(
            tmp_path / "best", phase_settings(speed_factors=[1.0, 0.9]), MODEL, HEAD, ["a", "b", "c"], CPU
        )


def test_a_phase_does_not_start_from_another_recipes_model(
    model: SpeakerModel, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    BestCheckpoints(tmp_path / "best", keep=1).save_if_best(1, 5.0, model, head, RUN)
    other = ModelSettings.model_validate({**MODEL.model_dump(), "speaker_network": {"kind": "mhfa"}})
    with pytest.raises(ParameterError, match=r"'model.speaker_network' is .*'mhfa'.* is of .*'astp'"):
        start_phase(tmp_path / "best", phase_settings(), other, HEAD, RUN["speaker_ids"], CPU)


def save_model(folder: Path, model: SpeakerModel, speaker_ids: list[str], **run: Any) -> Path:
    """A checkpoint whose class number n has centres of n + 1 everywhere."""
    speeds = run.get("phase", {}).get("speed_factors", [1.0])
    head = SubcentreMarginHead(10, len(speaker_ids) * len(speeds), HEAD.chosen)
    head.class_speeds = tuple(speeds)
    with torch.no_grad():
        head.weight.copy_(torch.arange(1.0, head.num_classes + 1).expand_as(head.weight))
    save_checkpoint(folder, model, head, RUN | {"speaker_ids": speaker_ids} | run)
    return folder


def started(
    folder: Path, speaker_ids: list[str], settings: HeadSettings = HEAD, **phase: Any
) -> tuple[SpeakerModel, Head, NewClasses]:
    torch.manual_seed(0)
    changes = {"start": str(folder)} | phase
    return start_from_model(folder, phase_settings(**changes), settings, speaker_ids, CPU)


def test_classes_go_by_speaker_and_never_by_position(model: SpeakerModel, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "saved", model, ["c", "a", "x"])
    loaded, head, new = started(saved, ["a", "b", "c"])
    assert torch.equal(loaded.speaker_network.projection.weight, model.speaker_network.projection.weight)
    assert head.weight.shape == (2, 10, 3)
    assert (head.weight[:, :, 0] == 2).all()
    assert (head.weight[:, :, 2] == 1).all()
    assert not (head.weight[:, :, 1] == head.weight[:, :1, 1:2]).all()  # drawn, to be turned
    assert (new.num_kept, list(new.from_means), new.num_random) == (2, [1], 0)


def test_a_speed_of_a_speaker_is_a_class_that_is_kept_by_its_factor(
    model: SpeakerModel, tmp_path: Path
) -> None:
    """Saved: a, b at 1.0, then at 1.1; now at 1.0, 0.9 and 1.1."""
    saved = save_model(tmp_path / "saved", model, ["a", "b"], phase={"speed_factors": [1.0, 1.1]})
    _, head, new = started(saved, ["a", "b"], speed_factors=[1.0, 0.9, 1.1])
    assert [int(value) for value in head.weight[0, 0, [0, 1, 4, 5]]] == [1, 2, 3, 4]
    assert (new.num_kept, list(new.from_means), new.num_random) == (4, [2, 3], 0)


def test_the_same_speakers_keep_their_head_as_from_phase_to_phase(
    model: SpeakerModel, tmp_path: Path
) -> None:
    speeds = {"speed_factors": [1.0, 0.9]}
    best = BestCheckpoints(tmp_path / "best", keep=1)
    head = SubcentreMarginHead(10, 6, HEAD.chosen)
    head.class_speeds = (1.0, 0.9)
    best.save_if_best(1, 5.0, model, head, RUN | {"phase": speeds})
    handed_on = start_phase(best.folder, phase_settings(), MODEL, HEAD, RUN["speaker_ids"], CPU)
    _, kept, new = started(best.folder, RUN["speaker_ids"])
    assert torch.equal(kept.weight, handed_on[1].weight)
    assert kept.num_classes == 6  # with the classes of another speed
    assert (new.num_kept, list(new.from_means), new.num_random) == (3, [], 0)


@pytest.mark.parametrize("start_head", ["mean_embeddings", "random"])
def test_no_old_class_survives_unless_it_is_asked_for(
    start_head: str, model: SpeakerModel, tmp_path: Path
) -> None:
    saved = save_model(tmp_path / "saved", model, ["a", "b", "c", "d"])
    _, head, new = started(saved, ["a", "b", "c"], start_head=start_head)
    torch.manual_seed(0)
    assert torch.equal(head.weight, build_head(HEAD, 10, 3).weight)
    assert new.num_kept == 0
    assert (len(new.from_means), new.num_random) == ((3, 0) if start_head == "mean_embeddings" else (0, 3))


def test_a_model_without_a_head_keeps_none(model: SpeakerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "imported")
    _, head, new = started(tmp_path / "imported", ["a", "b"])
    assert head.num_classes == 2
    assert (new.num_kept, list(new.from_means)) == (0, [0, 1])


def test_a_start_is_a_model_a_phase_its_versions_or_a_verifier(model: SpeakerModel, tmp_path: Path) -> None:
    plain = save_model(tmp_path / "plain", model, ["a"])
    verifier = save_model(tmp_path / "verifier/model", model, ["a"]).parent
    versions = tmp_path / "checkpoint"
    for version in ("2026-01-01", "2026-01-02"):
        kept = BestCheckpoints(versions / version / "checkpoint", keep=2)
        for epoch, eer in ((1, 5.0), (2, 8.0)):
            kept.save_if_best(epoch, eer, model, SubcentreMarginHead(10, 3, HEAD.chosen), RUN)
    newest = versions / "2026-01-02/checkpoint"
    for folder, expected in (
        (plain, plain),
        (verifier, verifier / "model"),
        (newest, newest / "epoch_01"),
        (versions, newest / "epoch_01"),
    ):
        assert saved_model(folder) == expected


class Unplaceable(Head):
    """A head of another's, whose classes are not in one tensor."""

    Settings = HEAD.chosen_class.Settings

    def __init__(self, embedding_size: int, num_classes: int, _: Any) -> None:
        super().__init__(embedding_size, num_classes)
        self.centres = torch.nn.ParameterList(torch.ones(embedding_size) for _ in range(num_classes))


def test_a_start_that_does_not_fit_is_refused(model: SpeakerModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*none' is no folder"):
        started(tmp_path / "none", ["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"'.*empty' is not a saved speaker model .*config\.json"):
        started(tmp_path / "empty", ["a"])
    saved = save_model(tmp_path / "saved", model, ["a", "b"])
    other = HeadSettings(aam_softmax=AamSoftmaxSettings(num_subcentres=4, scale=15))
    with pytest.raises(ParameterError, match=r"'head' is .*4.*, but .*saved is of .*2.*mean_embeddings"):
        started(saved, ["a"], other)
    started(saved, ["a"], other, start_head="mean_embeddings")
    started(saved, ["c"], other)  # keeps no class
    custom = HeadSettings(kind=f"{__name__}.{Unplaceable.__name__}")
    with pytest.raises(ParameterError, match=r"'start_head': Unplaceable has no class_dim.*=random"):
        started(saved, ["c"], custom)
    assert started(saved, ["c"], custom, start_head="random")[2].num_random == 1
    save_checkpoint(saved, model, SubcentreMarginHead(12, 2, HEAD.chosen), RUN | {"speaker_ids": ["a", "b"]})
    with pytest.raises(DataError, match=r"embeddings of 12 values, and the model beside it gives 10"):
        started(saved, ["a"])
    started(saved, ["a"], start_head="random")


def test_a_kind_of_start_needs_a_start() -> None:
    with pytest.raises(ParameterError, match="start_head 'random' needs a saved model"):
        phase_settings(start_head="random")


@pytest.mark.parametrize("network", ["astp", "x_vector"])
def test_mean_embeddings_are_those_of_clean_middle_crops_at_the_class_s_speed(
    network: str, utterances: pd.DataFrame, tmp_path: Path
) -> None:
    """Crops of 4,000 of 6,000 samples, and of the 5,455 that there are at a speed of 1.1; 30 of a class."""
    settings = tiny_settings(TINY_WAVLM, network=network)
    save_encoder(settings.frontend, tmp_path / "encoder", seed=1)
    torch.manual_seed(0)
    model = SpeakerModel.from_encoder(tmp_path / "encoder", settings)
    few = utterances[utterances["speaker_id"].isin(["id00001", "id00004"])].reset_index(drop=True)
    many = pd.concat([few.head(4)] * 7 + [few.tail(2)], ignore_index=True)  # 28 of the one, 2 of the other
    examples = TrainingExamples(many, None, 0.25, [1.0, 1.1], seed=0)
    means = mean_embeddings(model, examples, [1, 2])  # the other at 1.0, the one at 1.1
    waves = [read_audio(path) for path in many["path"]]
    spread = [round(place * 27 / 19) for place in range(20)]
    chosen = [
        [wave[1000:5000] for wave in waves[28:]],
        [change_speed(waves[row], 1.1)[727:4727] for row in spread],
    ]
    model.eval()
    for crops, mean in zip(chosen, means, strict=True):
        with torch.no_grad():
            inputs = model.speaker_network.loss_input(model(torch.tensor(np.stack(crops))))
        directions = inputs / inputs.norm(dim=1, keepdim=True)
        expected = directions.double().mean(dim=0)
        torch.testing.assert_close(mean.double(), expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_new_classes_are_turned_to_their_means_and_the_log_counts_all_kinds(
    model: SpeakerModel, utterances: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save_model(tmp_path / "saved", model, ["id00003", "id00001", "x"])
    examples = TrainingExamples(utterances, None, 0.25, [1.0], seed=0)
    loaded, head, new = started(saved, examples.speaker_ids)
    with caplog.at_level("INFO"):
        new.make(examples, "lmft", SpeakerClassifier(loaded, head))
    assert f"lmft: starts from {saved}" in caplog.text
    assert "2 kept, 4 from mean embeddings, 0 drawn at random" in caplog.text
    assert (head.weight[:, :, 1] == 2).all()
    assert (head.weight[:, :, 3] == 1).all()
    others = [0, 2, 4, 5]
    means = mean_embeddings(loaded, examples, others)  # (4, E)
    cosines = torch.cosine_similarity(head.weight[:, :, others], means.T[None], dim=1)  # (K, 4)
    assert cosines.min() > 0.99


def save_head(
    folder: Path, model: SpeakerModel, settings: HeadSettings, speeds: tuple[float, ...]
) -> tuple[Path, Head]:
    """Best epoch of a phase with three speakers, with a head of random weights."""
    head = build_head(settings, 10, 3 * len(speeds))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    head.class_speeds = speeds
    run = RUN | {"head": settings.model_dump()}
    BestCheckpoints(folder, keep=1).save_if_best(1, 5.0, model, head, run)
    return folder, head


@pytest.mark.parametrize(
    "settings", [HEAD, HeadSettings(kind="sphereface2")], ids=["two sub-centres", "SphereFace2"]
)
def test_a_cut_head_keeps_the_classes_of_its_speeds_whatever_their_place(
    settings: HeadSettings, model: SpeakerModel, tmp_path: Path
) -> None:
    """Classes 0 to 2 are at 1.0, 3 to 5 at 0.9 and 6 to 8 at 1.1."""
    before, whole = save_head(tmp_path / "best", model, settings, (1.0, 0.9, 1.1))
    for speeds, places in (([1.0], [0, 1, 2]), ([1.0, 1.1], [0, 1, 2, 6, 7, 8])):
        phase = phase_settings(speed_factors=speeds, cut_head=True)
        _, head = start_phase(before, phase, MODEL, settings, RUN["speaker_ids"], CPU)
        assert (head.num_classes, head.class_speeds) == (len(places), tuple(speeds))
        expected = dict(whole.state_dict())
        expected["weight"] = expected["weight"].index_select(whole.class_dim or 0, torch.tensor(places))
        assert all(torch.equal(value, expected[name]) for name, value in head.state_dict().items())
    _, uncut = start_phase(before, phase_settings(), MODEL, settings, RUN["speaker_ids"], CPU)
    assert (uncut.num_classes, uncut.class_speeds) == (9, (1.0, 0.9, 1.1))


def test_speeds_in_another_order_than_before_need_a_cut(model: SpeakerModel, tmp_path: Path) -> None:
    """Classes at 1.1 would otherwise go on from those at 0.9."""
    before, _ = save_head(tmp_path / "best", model, HEAD, (1.0, 0.9, 1.1))
    phase = phase_settings(speed_factors=[1.0, 1.1])
    with pytest.raises(ParameterError, match=r"at 1.0, 1.1, and .* at 1.0, 0.9, 1.1: .* cut_head"):
        start_phase(before, phase, MODEL, HEAD, RUN["speaker_ids"], CPU)


def test_classes_are_cut_off_a_saved_model_s_head_too(model: SpeakerModel, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "saved", model, ["a", "b"], phase={"speed_factors": [1.0, 1.1]})
    _, head, new = started(saved, ["a", "b"], cut_head=True)
    assert [int(value) for value in head.weight[0, 0]] == [1, 2]
    assert (new.num_kept, list(new.from_means), new.num_random) == (2, [], 0)


def test_a_head_whose_classes_are_in_no_tensor_is_not_cut(model: SpeakerModel, tmp_path: Path) -> None:
    custom = HeadSettings(kind=f"{__name__}.{Unplaceable.__name__}")
    before, _ = save_head(tmp_path / "best", model, custom, (1.0, 0.9))
    with pytest.raises(ParameterError, match=r"'cut_head' is true: Unplaceable has no class_dim.* false"):
        start_phase(before, phase_settings(cut_head=True), MODEL, custom, RUN["speaker_ids"], CPU)


def cut_shares(before: Path) -> tuple[int, torch.Tensor]:
    """Number of own classes, and centres of all, of a cut head that is sharded."""
    sharded = HEAD.model_copy(update={"sharded": True})
    _, head = start_phase(before, phase_settings(cut_head=True), MODEL, sharded, RUN["speaker_ids"], CPU)
    return head.weight.shape[2], head.state_dict()["weight"]


@pytest.mark.project
def test_a_cut_head_is_shared_out_after_the_cut(model: SpeakerModel, tmp_path: Path) -> None:
    before, whole = save_head(tmp_path / "best", model, HEAD, (1.0, 0.9))
    (first, of_first), (second, of_second) = values_of(run_processes(2, cut_shares, before))
    assert (first, second) == (1, 2)
    for weight in (of_first, of_second):
        assert torch.equal(weight, whole.weight[:, :, :3])


def encoder_options(model: SpeakerModel) -> tuple[float, float, float]:
    """Layer drop, share of masked frames, and rate of the dropout of attention weights."""
    encoder: Any = model.frontend.encoder
    config = encoder.config
    return config.layerdrop, config.mask_time_prob, encoder.encoder.layers[0].attention.dropout


def test_a_phase_has_its_own_regularisation_and_the_next_one_that_of_the_model(
    encoder: Path, head: SubcentreMarginHead, tmp_path: Path
) -> None:
    settings = tiny_settings(TINY_WAVLM, regularisation={"layer_drop": 0.25})

    def next_phase(folder: Path, **regularisation: float) -> SpeakerModel:
        phase = phase_settings(regularisation=regularisation)
        return start_phase(folder, phase, settings, HEAD, RUN["speaker_ids"], CPU, encoder)[0]

    model = next_phase(encoder, layer_drop=0.99, dropout=0.5, mask_time_probability=0.4)
    assert encoder_options(model) == (0.99, 0.4, 0.5)
    torch.manual_seed(0)
    states = model.train().frontend(torch.randn(2, 8000))
    assert torch.equal(states[1], states[2])  # WavLM never drops its first block
    BestCheckpoints(tmp_path / "best", keep=1).save_if_best(1, 5.0, model, head, RUN)
    assert read_saved_configuration(best_checkpoint(tmp_path / "best")).encoder["layerdrop"] == 0.99
    again = next_phase(tmp_path / "best")
    assert encoder_options(again) == (0.25, 0.0, 0.1)
    trained = dict(model.state_dict())
    del trained["frontend.encoder.masked_spec_embed"]  # of no use to a phase without time masks
    assert again.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in again.state_dict().items())
    BestCheckpoints(tmp_path / "second", keep=1).save_if_best(1, 5.0, again, head, RUN)
    masked = next_phase(tmp_path / "second", mask_time_probability=0.3)
    assert encoder_options(masked) == (0.25, 0.3, 0.1)
    assert masked.state_dict()["frontend.encoder.masked_spec_embed"].isfinite().all()


def test_a_phase_from_a_saved_model_has_its_own_regularisation(model: SpeakerModel, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "saved", model, ["a", "b"])
    loaded, _, _ = started(saved, ["a", "b"], regularisation={"layer_drop": 0.5})
    assert encoder_options(loaded) == (0.5, 0.0, 0.1)
    assert encoder_options(started(saved, ["a", "b"])[0]) == encoder_options(model)


@dataclass(frozen=True)
class Phase:
    """A phase from a saved model, whose settings of the model are not those that are asked for."""

    start: Path
    folder: Path
    utterances: pd.DataFrame
    trials: pd.DataFrame

    def train(self, tracker: Watcher | None = None, **changes: Any) -> pd.DataFrame:
        """Learning curve without timings."""
        asked: dict[str, Any] = {"start": str(self.start), "resume": True, "frontend": "trained", "epochs": 3}
        asked |= {"pretrained_distance": {"kind": "l2_sp"}} | changes  # to the encoder of the saved model
        job = PhaseJob(
            "lmft",
            phase_settings(**asked),
            tiny_settings(TINY_WAVLM, network="mhfa"),
            HEAD,
            AugmentationSettings(probability=0),
            seed=3,
            device="cpu",
            origin=str(self.start),
        )
        none = self.utterances.head(0)
        tables = PhaseTables(
            self.utterances,
            self.utterances,
            self.trials,
            none,
            self.trials.head(0),
            NOISE_CLIPS.empty(),
            RIRS.empty(),
        )
        curve = run_phase(job, tables, self.folder / "no", self.folder / "no", self.folder, tracker=tracker)
        return curve[~curve["metric"].str.endswith("seconds")].reset_index(drop=True)


@pytest.fixture
def phase(model: SpeakerModel, utterances: pd.DataFrame, trials: pd.DataFrame, tmp_path: Path) -> Phase:
    """Of its six speakers the saved head knows two."""
    saved = save_model(tmp_path / "saved", model, ["id00003", "id00001", "x"])
    return Phase(saved, tmp_path / "out", utterances, trials)


def interrupt(phase: Phase) -> None:
    def stop(epoch: int, _: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phase.train(Watcher(stop))


def test_a_phase_from_a_saved_model_resumes_bit_for_bit_and_makes_no_class_again(
    phase: Phase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = replace(phase, folder=tmp_path / "undisturbed")
    expected = undisturbed.train()
    interrupt(phase)
    caplog.clear()
    with caplog.at_level("INFO"):
        pd.testing.assert_frame_equal(phase.train(), expected)
    assert "resuming from step" in caplog.text
    assert "from mean embeddings" not in caplog.text
    for name in ("model.safetensors", "head.safetensors"):
        own, others = (best_checkpoint(one.folder) / name for one in (phase, undisturbed))
        assert own.read_bytes() == others.read_bytes()
    record = json.loads((best_checkpoint(phase.folder) / "run.json").read_text())
    assert record["start"] == record["phase"]["start"] == str(phase.start)
    assert record["model"]["speaker_network"]["kind"] == "astp"  # the saved model's own


def test_an_interrupted_phase_does_not_resume_from_another_start(
    phase: Phase, model: SpeakerModel, tmp_path: Path
) -> None:
    interrupt(phase)
    other = replace(phase, start=save_model(tmp_path / "other", model, ["id00003", "id00001", "x"]))
    with pytest.raises(ParameterError, match=r"parameter 'lmft\.start' was .*saved, is .*other"):
        other.train()
    with pytest.raises(ParameterError, match=r"parameter 'lmft\.start_head' was kept, is random"):
        phase.train(start_head="random")
    torch.nn.init.ones_(model.speaker_network.projection.weight)
    save_model(phase.start, model, ["id00003", "id00001", "x"])
    with pytest.raises(DataError, match=r"other weights to start from: .*saved then, .*saved now"):
        phase.train()


def handed_on(phase: Phase) -> tuple[list[float], torch.Tensor]:
    """Learning curve of a phase without epochs, and centres of all classes at its end."""
    curve = phase.train(epochs=0)
    return curve["value"].tolist(), load_head(best_checkpoint(phase.folder), "cpu")[0].state_dict()["weight"]


@pytest.mark.project
def test_two_processes_start_from_a_saved_model_as_one_does(phase: Phase, tmp_path: Path) -> None:
    curve, weight = handed_on(phase)
    two = replace(phase, folder=tmp_path / "two")
    for found, of_two in values_of(run_processes(2, handed_on, two)):
        assert found == pytest.approx(curve)
        torch.testing.assert_close(of_two, weight)
