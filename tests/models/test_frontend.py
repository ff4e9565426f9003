from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import (
    AutoConfig,
    AutoModel,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
)

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.models.encoder_settings import RegularisationSettings
from speaker_verification.models.frontend import Frontend, load_encoder, save_encoder
from speaker_verification.models.settings import FrontendSettings
from tests.support.tiny_models import TINY_LARGE, TINY_WAVLM


def frontend_of(architecture: dict[str, Any], **options: Any) -> Frontend:
    values = dict(architecture)
    torch.manual_seed(0)
    return Frontend(
        AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)), **options
    )


@pytest.fixture
def waveforms() -> torch.Tensor:
    return torch.randn(2, 4000, generator=torch.Generator().manual_seed(3))


def states_block_by_block(
    frontend: Frontend, waveforms: torch.Tensor, dropped: set[int]
) -> list[torch.Tensor]:
    """Hidden states as transformers 4 gave them: one before every block, dropped or not, and the output."""
    inner = frontend.encoder
    features = inner.feature_extractor(waveforms).transpose(1, 2)
    projected = inner.feature_projection(features)
    hidden = projected[0] if isinstance(projected, tuple) else projected  # HuBERT gives the one tensor
    stack = inner.encoder
    hidden = hidden + stack.pos_conv_embed(hidden)
    stable = inner.config.do_stable_layer_norm
    if not stable:
        hidden = stack.layer_norm(hidden)
    states, bias = [], None
    for index, block in enumerate(stack.layers):
        states.append(hidden)
        if index in dropped:
            continue
        if inner.config.model_type == "wavlm":
            extra = {} if stable else {"index": index}
            hidden, bias = block(hidden, attention_mask=None, position_bias=bias, **extra)
        else:
            hidden = block(hidden, attention_mask=None)
    return [*states, stack.layer_norm(hidden) if stable else hidden]


MODEL_TYPES = ("wavlm", "hubert", "wav2vec2")


@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_states_are_those_of_the_blocks(
    model_type: str, architecture: dict[str, Any], waveforms: torch.Tensor
) -> None:
    frontend = frontend_of(architecture | {"model_type": model_type}).eval()
    with torch.no_grad():
        states = frontend(waveforms)
        expected = states_block_by_block(frontend, waveforms, dropped=set())
    assert len(states) == frontend.num_states == 4
    for state, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(state, wanted)


@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_dropped_block_repeats_its_input(
    model_type: str, architecture: dict[str, Any], waveforms: torch.Tensor
) -> None:
    quiet = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0
    )
    frontend = frontend_of(architecture | quiet | {"model_type": model_type, "layerdrop": 0.5}).train()
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
    assert len(seen) == (4 if model_type == "wavlm" else 8)  # WavLM never drops its first block


@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_there_are_always_all_states(
    model_type: str, architecture: dict[str, Any], waveforms: torch.Tensor
) -> None:
    frontend = frontend_of(architecture | {"model_type": model_type, "layerdrop": 0.5}).train()
    for _ in range(12):
        states = frontend(waveforms)
        assert [state.shape for state in states] == [states[0].shape] * 4
        sum(state.square().mean() for state in states).backward()


def test_waveforms_are_normalised_as_the_feature_extractor_does(waveforms: torch.Tensor) -> None:
    loud = waveforms * 0.01 + 0.3
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    wanted = extractor(list(loud.numpy()), sampling_rate=16_000, return_tensors="pt").input_values
    plain = frontend_of(TINY_WAVLM).eval()
    always = frontend_of(TINY_WAVLM, waveform_normalisation="always").eval()
    with torch.no_grad():
        for state, expected in zip(always(loud), plain(wanted), strict=True):
            torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain(loud)[0], plain(wanted)[0], rtol=1e-3)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_a_checkpoint_says_whether_it_wants_normalised_waveforms(
    do_normalize: bool, encoder_folder: Path, tmp_path: Path
) -> None:
    hub = shutil.copytree(encoder_folder, tmp_path / "hub")
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(hub)
    save_encoder(FrontendSettings(checkpoint=str(hub)), tmp_path / "kept", seed=0)
    encoder = load_encoder(tmp_path / "kept")
    assert Frontend(encoder, waveform_normalisation="checkpoint").normalises == do_normalize
    assert Frontend(encoder, waveform_normalisation="always").normalises
    assert not Frontend(encoder, waveform_normalisation="none").normalises


def test_a_checkpoint_that_does_not_say_is_not_guessed_at(encoder_folder: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"waveform_normalisation' is 'checkpoint', .*: use none or always"
    ):
        Frontend(load_encoder(encoder_folder), waveform_normalisation="checkpoint")
    with pytest.raises(ParameterError, match="waveform_normalisation is 'checkpoint' without one"):
        FrontendSettings.parse(
            {"checkpoint": None, "architecture": TINY_WAVLM, "waveform_normalisation": "checkpoint"}, ""
        )


def test_regularisation_takes_the_checkpoint_s_place_where_it_is_given(encoder_folder: Path) -> None:
    own = load_encoder(encoder_folder)
    assert (own.config.hidden_dropout, own.config.layerdrop, own.config.mask_time_prob) == (0.1, 0.1, 0.0)
    assert load_encoder(encoder_folder, RegularisationSettings()).config.layerdrop == 0.1
    changed = load_encoder(
        encoder_folder, RegularisationSettings(dropout=0.25, layer_drop=0.0, mask_time_probability=0.5)
    )
    assert changed.config.layerdrop == 0.0
    rates = {module.p for module in changed.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}
    assert changed.encoder.layers[0].attention.dropout == 0.25
    states = Frontend(changed.train())(torch.randn(2, 8000))
    assert all(state.isfinite().all() for state in states)


def test_last_state_of_a_large_encoder_can_be_taken_before_its_layer_norm(waveforms: torch.Tensor) -> None:
    after, before = frontend_of(TINY_LARGE).eval(), frontend_of(TINY_LARGE, last_state="before").eval()
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


QUIET = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
QUIET |= {"layerdrop": 0.0}


def states_and_gradients(frontend: Frontend, waveforms: torch.Tensor, seed: int = 5) -> list[torch.Tensor]:
    """Of all parameters, through all states unevenly."""
    torch.manual_seed(seed)
    states = frontend(waveforms)
    loss = sum((state * (index + 1)).sin().sum() for index, state in enumerate(states))
    learning = [parameter for parameter in frontend.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, learning, allow_unused=True)  # type: ignore[arg-type]
    return [*states, *(gradient for gradient in gradients if gradient is not None)]


def assert_same(own: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(own) == len(expected) > 20
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()) + 1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_fused_attention_is_the_original_with_all_its_gradients(
    model_type: str, architecture: dict[str, Any], training: bool, waveforms: torch.Tensor
) -> None:
    options = architecture | QUIET | {"model_type": model_type}
    fused = frontend_of(options).double().train(training)
    original = frontend_of(options, attention="original").double().train(training)
    assert fused.state_dict().keys() == original.state_dict().keys()
    assert_same(
        states_and_gradients(fused, waveforms.double()), states_and_gradients(original, waveforms.double())
    )


def test_fused_attention_overlooks_padding_as_the_original_does(waveforms: torch.Tensor) -> None:
    mask = torch.ones(2, 4000, dtype=torch.long)
    mask[1, 2500:] = 0
    outputs = []
    for attention in ("sdpa", "original"):
        frontend = frontend_of(TINY_LARGE, attention=attention).eval()
        with torch.no_grad():
            outputs.append(frontend.encoder(waveforms, attention_mask=mask).last_hidden_state)
            unmasked = frontend.encoder(waveforms).last_hidden_state
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1][1, :7], unmasked[1, :7], rtol=1e-3)


@pytest.mark.parametrize("architecture", [TINY_WAVLM, TINY_LARGE], ids=["base", "large"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_checkpointed_blocks_give_the_same_gradients_though_dropout_draws(
    model_type: str, architecture: dict[str, Any], waveforms: torch.Tensor
) -> None:
    options = architecture | {"model_type": model_type, "layerdrop": 0.3, "hidden_dropout": 0.2}
    plain = frontend_of(options).train()
    checkpointed = frontend_of(options, checkpoint_activations=True).train()
    for seed in range(3):  # of the dropouts and the dropped blocks
        assert_same(
            states_and_gradients(checkpointed, waveforms, seed), states_and_gradients(plain, waveforms, seed)
        )


def test_checkpointed_blocks_keep_less_for_the_backward_pass(waveforms: torch.Tensor) -> None:
    kept = []
    for checkpoint_activations in (False, True):
        frontend = frontend_of(TINY_WAVLM, checkpoint_activations=checkpoint_activations).train()
        sizes: dict[int, int] = {}

        def remember(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            states = frontend(waveforms)
        assert states[-1].requires_grad
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.8 * kept[0]


def test_a_compiled_encoder_gives_the_same_states(
    waveforms: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and guarded as ever, but run as traced: the machine's compiler takes minutes."""
    plain, compiled = frontend_of(TINY_WAVLM).eval(), frontend_of(TINY_WAVLM).eval()
    graphs = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    compiled.compile_blocks()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert_same(states_and_gradients(compiled, waveforms), states_and_gradients(plain, waveforms))
    assert 2 < graphs.frame_count < 8  # blocks share what is compiled


def test_where_nothing_can_be_compiled_the_parameter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler found\n at /somewhere")

    monkeypatch.setattr(torch, "compile", lambda _: fail)
    with pytest.raises(ParameterError, match=r"'compile' is true, .* \(no compiler found\): install"):
        frontend_of(TINY_WAVLM).compile_blocks()
