from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, HubertModel, Wav2Vec2Model, WavLMModel

from speaker_verification.errors import DataError, ParameterError
from speaker_verification.models.frontend import Frontend, load_encoder, save_encoder
from speaker_verification.models.settings import FrontendSettings
from tests.models.conftest import TINY_LARGE, TINY_WAVLM


def frontend_of(architecture: dict[str, Any], last_state: Any = "after") -> Frontend:
    values = dict(architecture)
    torch.manual_seed(0)
    return Frontend(
        AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)), last_state
    )


@pytest.fixture
def waveforms() -> torch.Tensor:
    return torch.randn(2, 4000, generator=torch.Generator().manual_seed(3))


def states_block_by_block(
    frontend: Frontend, waveforms: torch.Tensor, dropped: set[int]
) -> list[torch.Tensor]:
    """What transformers 4 gave: one state before every block, dropped or not, and the encoder's output."""
    inner = frontend.encoder
    features = inner.feature_extractor(waveforms).transpose(1, 2)
    hidden, _ = inner.feature_projection(features)
    stack = inner.encoder
    hidden = hidden + stack.pos_conv_embed(hidden)
    stable = inner.config.do_stable_layer_norm
    if not stable:
        hidden = stack.layer_norm(hidden)
    states, bias = [], None
    for index, block in enumerate(stack.layers):
        states.append(hidden)
        if index not in dropped:
            extra = {} if stable else {"index": index}
            hidden, bias = block(hidden, attention_mask=None, position_bias=bias, **extra)
    return [*states, stack.layer_norm(hidden) if stable else hidden]


@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
def test_states_are_those_of_the_blocks(architecture: dict[str, Any], waveforms: torch.Tensor) -> None:
    frontend = frontend_of(architecture).eval()
    with torch.no_grad():
        states = frontend(waveforms)
        expected = states_block_by_block(frontend, waveforms, dropped=set())
    assert len(states) == frontend.num_states == 4
    for state, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(state, wanted)


@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
def test_a_dropped_block_repeats_its_input(architecture: dict[str, Any], waveforms: torch.Tensor) -> None:
    quiet = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0
    )
    frontend = frontend_of(architecture | quiet | {"layerdrop": 0.5}).train()
    ran: set[int] = set()
    blocks: Any = frontend.encoder.encoder
    for index, block in enumerate(blocks.layers):
        block.register_forward_hook(lambda *_, index=index: ran.add(index))
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        ran.clear()
        with torch.no_grad():
            states = frontend(waveforms)
            dropped = {0, 1, 2} - ran
            expected = states_block_by_block(frontend, waveforms, dropped)
        assert len(states) == 4
        for state, wanted in zip(states, expected, strict=True):
            torch.testing.assert_close(state, wanted)
        seen.add(frozenset(dropped))
    assert seen == {frozenset(), frozenset({1}), frozenset({2}), frozenset({1, 2})}


def test_last_state_of_a_large_encoder_can_be_taken_before_its_layer_norm(waveforms: torch.Tensor) -> None:
    after, before = frontend_of(TINY_LARGE).eval(), frontend_of(TINY_LARGE, "before").eval()
    with torch.no_grad():
        normed, plain = after(waveforms)[-1], before(waveforms)[-1]
        torch.testing.assert_close(after.encoder.encoder.layer_norm(plain), normed)
    assert not torch.allclose(plain, normed)


def test_minimum_samples_are_just_enough() -> None:
    frontend = frontend_of(TINY_WAVLM).eval()
    enough = frontend.minimum_samples(num_frames=2)
    assert enough == 720  # 25 ms window and 20 ms step at 16 kHz: 400 + 320
    assert frontend(torch.zeros(1, enough))[0].shape[1] == 2
    assert frontend(torch.zeros(1, enough - 1))[0].shape[1] == 1


@pytest.mark.parametrize(
    ("model_type", "kind"), [("wavlm", WavLMModel), ("hubert", HubertModel), ("wav2vec2", Wav2Vec2Model)]
)
def test_an_encoder_comes_back_in_its_own_class(model_type: str, kind: type, tmp_path: Path) -> None:
    settings = FrontendSettings(checkpoint=None, architecture=TINY_WAVLM | {"model_type": model_type})
    save_encoder(settings, tmp_path / "a", seed=5)
    save_encoder(FrontendSettings(checkpoint=str(tmp_path / "a")), tmp_path / "b", seed=6)
    first, second = load_encoder(tmp_path / "a"), load_encoder(tmp_path / "b")
    assert type(first) is type(second) is kind
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_random_encoder_depends_on_its_seed_alone(tmp_path: Path) -> None:
    settings = FrontendSettings(checkpoint=None, architecture=TINY_WAVLM)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name) * 99)
        save_encoder(settings, tmp_path / name, seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_an_encoder_that_cannot_be_used_is_named(tmp_path: Path, encoder_folder: Path) -> None:
    with pytest.raises(DataError, match="no_such_folder"):
        load_encoder(tmp_path / "no_such_folder")
    with pytest.raises(ParameterError, match="'bert': use one of wavlm, hubert, wav2vec2"):
        save_encoder(FrontendSettings(checkpoint=None, architecture={"model_type": "bert"}), tmp_path, 1)
    config = json.loads((encoder_folder / "config.json").read_text())
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    (tmp_path / "deeper" / "model.safetensors").symlink_to(encoder_folder / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks .* weights"):
        load_encoder(tmp_path / "deeper")


def test_exactly_one_source_of_an_encoder() -> None:
    with pytest.raises(ParameterError, match="not both"):
        FrontendSettings.parse({"checkpoint": None, "architecture": None}, "model.frontend")
