from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.config.loader import RecipeConfigLoader, shortened_phases
from speaker_verification.config.phases import PHASES
from speaker_verification.config.tree import Parameters, check_parameters
from speaker_verification.settings import CONFIG_LOADER_ARGS
from speaker_verification.training.phase_schedule import PhaseSchedule
from speaker_verification.training.schedules import top_k_penalty
from tests.support.config import CONF, parameters

RECIPES = sorted(path.stem for path in CONF.glob("recipes/*.yml"))

BASE = {
    "recipe": "published",
    "fast_dev_run": None,
    "model": {"kind": "lap", "heads": 16, "width": 512},
    "pretrain": {"epochs": 40, "steps_per_epoch": None, "crop_seconds": 2},
    "finetune": {"epochs": 10, "steps_per_epoch": None},
    "lmft": {"epochs": 1, "steps_per_epoch": None},
}
MHFA = {"model": {"kind": "mhfa", "heads": 32}, "finetune": {"epochs": 15}}
TINY = {"model": {"heads": 4}, "pretrain": {"epochs": 3}}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for file, values in {
        "base/parameters.yml": BASE,
        "recipes/published.yml": {},
        "recipes/mhfa.yml": MHFA,
        "recipes/mhfa_large.yml": {"based_on": "mhfa", "model": {"width": 1024}},
        "tiny/parameters.yml": TINY,
        "local/parameters.yml": {},
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(yaml.safe_dump(values) if values else "# nothing to change\n")
    return tmp_path


def credentials(conf: Path, env: str | None) -> dict[str, Any]:
    loader = RecipeConfigLoader(str(conf), env, {}, **CONFIG_LOADER_ARGS)  # type: ignore[arg-type]
    return loader["credentials"]


def test_the_default_recipe_changes_nothing(conf: Path) -> None:
    assert parameters(conf) == BASE


def test_a_recipe_goes_over_the_base_under_the_environment_and_the_command_line(conf: Path) -> None:
    chosen = parameters(conf, recipe="mhfa")
    assert chosen["recipe"] == "mhfa"
    assert chosen["model"] == {"kind": "mhfa", "heads": 32, "width": 512}
    assert chosen["finetune"] == {"epochs": 15, "steps_per_epoch": None}
    shrunk = parameters(conf, "tiny", recipe="mhfa")
    assert shrunk["model"] == {"kind": "mhfa", "heads": 4, "width": 512}
    assert shrunk["pretrain"]["epochs"] == 3
    given = parameters(conf, "tiny", recipe="mhfa", model={"heads": 8})
    assert given["model"]["heads"] == 8


def test_a_recipe_may_be_based_on_another(conf: Path) -> None:
    chosen = parameters(conf, "tiny", recipe="mhfa_large")
    assert chosen["model"] == {"kind": "mhfa", "heads": 4, "width": 1024}
    assert chosen["finetune"]["epochs"] == 15
    assert "based_on" not in chosen


def test_an_environment_has_changes_of_its_own_to_a_recipe_and_to_those_based_on_it(conf: Path) -> None:
    (conf / "tiny/recipes").mkdir()
    (conf / "tiny/recipes/mhfa.yml").write_text("model: {heads: 2}\nphase_defaults: {crop_seconds: 1}\n")
    (conf / "tiny/recipes/mhfa_large.yml").write_text("pretrain: {epochs: 7}\n")
    assert parameters(conf, "tiny", recipe="published")["model"]["heads"] == 4
    assert parameters(conf, "tiny", recipe="mhfa")["pretrain"] == BASE["pretrain"] | {
        "epochs": 3,
        "crop_seconds": 1,
    }
    large = parameters(conf, "tiny", recipe="mhfa_large", lmft={"epochs": 5})
    assert large["model"] == {"kind": "mhfa", "heads": 2, "width": 1024}
    assert (large["pretrain"]["epochs"], large["lmft"]["epochs"]) == (7, 5)
    assert parameters(conf, recipe="mhfa_large")["model"]["heads"] == 32


def test_a_broken_file_of_an_environments_changes_to_a_recipe_is_named(conf: Path) -> None:
    (conf / "tiny/recipes").mkdir()
    (conf / "tiny/recipes/mhfa.yml").write_text("model: {heads: 2\n")
    with pytest.raises(DataError, match=r"^conf/tiny/recipes/mhfa\.yml, line 2: "):
        parameters(conf, "tiny", recipe="mhfa_large")


def test_the_architecture_of_another_encoder_replaces_the_one_before(conf: Path) -> None:
    wavlm = {"model_type": "wavlm", "hidden_size": 96, "conv_dim": [64]}
    (conf / "tiny/parameters.yml").write_text(yaml.safe_dump({"model": {"architecture": wavlm}}))
    for given, merged in (
        ({"hidden_size": 48}, wavlm | {"hidden_size": 48}),
        ({"model_type": "wavlm", "hidden_size": 48}, wavlm | {"hidden_size": 48}),
        ({"model_type": "wav2vec2-bert"}, {"model_type": "wav2vec2-bert"}),
    ):
        assert parameters(conf, "tiny", model={"architecture": given})["model"]["architecture"] == merged


def test_an_environment_may_choose_its_recipe_and_the_command_line_another(conf: Path) -> None:
    (conf / "tiny/parameters.yml").write_text(yaml.safe_dump({**TINY, "recipe": "mhfa"}))
    assert parameters(conf, "tiny")["model"]["kind"] == "mhfa"
    assert parameters(conf, "tiny", recipe="published")["model"]["kind"] == "lap"
    assert parameters(conf, "base", recipe="mhfa")["model"]["heads"] == 32


OWN = {"prepare": {"subsets": [], "sessions": 1}, "phase_defaults": {"steps_per_epoch": 5}}


@pytest.fixture
def conf_with_own(conf: Path) -> Path:
    """Configuration with a layer for own corpora, over which `tiny` has parameters of its own."""
    (conf / "own_corpora.yml").write_text(yaml.safe_dump(OWN))
    (conf / "base/parameters_prepare.yml").write_text(
        yaml.safe_dump({"prepare": {"corpora": {}, "subsets": ["a", "b"], "sessions": 0, "seed": 1}})
    )
    (conf / "tiny/parameters_prepare.yml").write_text(yaml.safe_dump({"prepare": {"sessions": 2, "seed": 2}}))
    return conf


def test_own_corpora_of_the_command_line_bring_their_layer_over_the_environment(conf_with_own: Path) -> None:
    given = {"corpora": {"mine": "FOLDER"}}
    expected = {"subsets": [], "sessions": 1, "seed": 2, **given}
    merged = parameters(conf_with_own, "tiny", prepare=given)
    assert merged["prepare"] == expected
    assert [merged[phase]["steps_per_epoch"] for phase in PHASES] == [5, 5, 5]
    assert parameters(conf_with_own, "tiny", prepare=given | {"sessions": 3})["prepare"]["sessions"] == 3


def test_own_corpora_of_an_environment_bring_their_layer_under_it(conf_with_own: Path) -> None:
    path = conf_with_own / "tiny/parameters_prepare.yml"
    values = yaml.safe_load(path.read_text())["prepare"]
    path.write_text(yaml.safe_dump({"prepare": values | {"corpora": {"mine": "FOLDER"}}}))
    expected = {"corpora": {"mine": "FOLDER"}, "subsets": [], "sessions": 2, "seed": 2}
    assert parameters(conf_with_own, "tiny")["prepare"] == expected
    more = parameters(conf_with_own, "tiny", prepare={"corpora": {"more": "OTHER"}})["prepare"]
    assert more == {**expected, "corpora": {"mine": "FOLDER", "more": "OTHER"}}


@pytest.mark.parametrize("corpora", [{}, {"mine": {"path": "FOLDER", "test_speakers": "all"}}])
def test_without_own_corpora_to_train_on_there_is_no_layer_for_them(
    conf_with_own: Path, corpora: dict[str, Any]
) -> None:
    merged = parameters(conf_with_own, "tiny", prepare={"corpora": corpora})["prepare"]
    assert merged == {"corpora": corpora, "subsets": ["a", "b"], "sessions": 2, "seed": 2}


@pytest.mark.parametrize("env", [None, "demo", "mini", "librispeech"])
def test_own_corpora_suffice_in_every_environment(env: str | None) -> None:
    tree = check_parameters(parameters(CONF, env, prepare={"corpora": {"mine": "FOLDER"}}))
    assert tree.prepare.all_subsets == ("mine-train", "mine-test")
    assert tree.prepare.list_names == ("mine",)
    assert tree.prepare.synthetic is None
    assert tree.embed.cohort_set == tree.prepare.training_set == "own"
    assert {phase.monitor for phase in tree.phases.values()} == {()}


def test_phase_defaults_go_to_every_phase_under_the_phases_of_their_own_layer(conf: Path) -> None:
    layers = {
        "base": {
            "phase_defaults": {"workers": 4, "rate": {"maximum": 1, "minimum": 0}},
            "lmft": {"workers": 8},
        },
        "recipes": {"phase_defaults": {"rate": {"maximum": 2}}, "pretrain": {"rate": {"maximum": 3}}},
        "tiny": {"phase_defaults": {"rate": {"minimum": 0.5}}},
    }
    (conf / "base/parameters_training.yml").write_text(yaml.safe_dump(layers["base"]))
    (conf / "base/parameters.yml").write_text("recipe: mhfa\nfast_dev_run: null\n")
    (conf / "recipes/mhfa.yml").write_text(yaml.safe_dump(layers["recipes"]))
    (conf / "tiny/parameters.yml").write_text(yaml.safe_dump(layers["tiny"]))
    merged = parameters(conf, "tiny")
    assert "phase_defaults" not in merged
    assert merged["pretrain"] == {"workers": 4, "rate": {"maximum": 3, "minimum": 0.5}}
    assert merged["finetune"] == {"workers": 4, "rate": {"maximum": 2, "minimum": 0.5}}
    assert merged["lmft"] == {"workers": 8, "rate": {"maximum": 2, "minimum": 0.5}}
    given = parameters(conf, "tiny", phase_defaults={"workers": 1}, finetune={"rate": {"minimum": 0.1}})
    assert [given[phase]["workers"] for phase in PHASES] == [1, 1, 1]
    assert [given[phase]["rate"]["minimum"] for phase in PHASES] == [0.5, 0.1, 0.5]


def test_a_recipe_goes_over_the_one_it_is_based_on_whichever_way_either_says_it(conf: Path) -> None:
    (conf / "recipes/mhfa.yml").write_text("finetune: {epochs: 15}\nphase_defaults: {steps_per_epoch: 9}\n")
    large = "based_on: mhfa\nphase_defaults: {epochs: 5}\nlmft: {steps_per_epoch: 7}\n"
    (conf / "recipes/mhfa_large.yml").write_text(large)
    merged = parameters(conf, recipe="mhfa_large")
    assert [merged[phase]["epochs"] for phase in PHASES] == [5, 5, 5]
    assert [merged[phase]["steps_per_epoch"] for phase in PHASES] == [9, 9, 7]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epohcs": 3}, r"^unknown parameter 'phase_defaults\.epohcs': .* 'phase_defaults\.epochs'\?$"),
        ({"batch_size": 1}, r"^parameter 'phase_defaults\.batch_size' is 1: [^;]*$"),
        ({"learning_rate": {"minimum": 3}}, r"'pretrain\.learning_rate': .*'lmft\.learning_rate': "),
        (3, r"^parameter 'phase_defaults' is 3"),
    ],
)
def test_a_mistake_in_phase_defaults_is_told_once_by_that_name(given: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_parameters(parameters(CONF, phase_defaults=given))


def test_phase_defaults_misspelt_are_refused_with_their_name() -> None:
    with pytest.raises(ParameterError, match=r"'phase_default': did you mean 'phase_defaults'\?$"):
        check_parameters(parameters(CONF, phase_default={"epochs": 3}))


def test_an_unknown_recipe_is_refused_with_the_nearest_one(conf: Path) -> None:
    with pytest.raises(ParameterError, match=r"^parameter 'recipe' is 'mfha', .*did you mean 'mhfa'\?$"):
        parameters(conf, recipe="mfha")


def test_fast_dev_run_shortens_every_phase_but_not_what_the_command_line_says(conf: Path) -> None:
    quick = parameters(conf, recipe="mhfa", fast_dev_run=5, finetune={"epochs": 7})
    assert quick["pretrain"] == {"epochs": 2, "steps_per_epoch": 5, "crop_seconds": 2}
    assert quick["finetune"] == {"epochs": 7, "steps_per_epoch": 5}
    assert quick["lmft"] == {"epochs": 1, "steps_per_epoch": 5}


@pytest.mark.parametrize("env", ["local", "demo", "mini", "librispeech", "cnceleb"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_possible_in_every_environment(recipe: str, env: str) -> None:
    whole = parameters(CONF, env, recipe=recipe)
    check_parameters(whole)
    quick = whole | {"fast_dev_run": 2}
    check_parameters(quick | {phase: quick[phase] | less for phase, less in shortened_phases(quick).items()})


def test_recipes_hold_the_published_values() -> None:
    slt22 = Parameters.parse(parameters(CONF, recipe="mhfa_slt22"), "")
    assert slt22.model.frontend.checkpoint == "microsoft/wavlm-base-plus"
    assert (slt22.pretrain.epochs, slt22.finetune.epochs, slt22.lmft.epochs) == (0, 15, 5)
    for phase, samples, examples, margin in (
        (slt22.finetune, 48_240, 480, 0.2),
        (slt22.lmft, 96_240, 160, 0.5),
    ):
        assert round(phase.crop_seconds * 16_000) == samples
        assert phase.examples_per_step == examples
        assert phase.margin.final == margin
        assert phase.margin.top_k == 0
    first = [PhaseSchedule(slt22.finetune, 1).learning_rate(epoch) for epoch in range(15)]
    assert first == pytest.approx([5e-3 * 0.95**epoch for epoch in range(15)])
    assert PhaseSchedule(slt22.lmft, 1).learning_rate(0) == pytest.approx(5e-3 * 0.95**15, rel=1e-4)
    assert slt22.finetune.lr_multipliers.frontend * 5e-3 == pytest.approx(2e-5)
    assert slt22.augmentation.probability == pytest.approx(5 / 6)  # one of six, the first is none
    assert round(slt22.embed.crop_seconds * 16_000) == 64_240
    assert round((slt22.embed.max_seconds or 0) * 16_000) == 700_000

    base, large = (
        Parameters.parse(parameters(CONF, recipe=name), "")
        for name in ("mhfa_wespeaker", "mhfa_wespeaker_large")
    )
    assert base.pretrain.learning_rate.maximum * base.pretrain.examples_per_step / 64 == 0.2
    assert (base.finetune.epochs, large.finetune.epochs) == (10, 5)
    assert (base.finetune.batch_size, large.finetune.batch_size) == (128, 32)
    assert (base.finetune.learning_rate.maximum, large.finetune.learning_rate.maximum) == (1e-4, 5e-5)
    assert (base.lmft.epochs, base.lmft.crop_seconds, large.lmft.crop_seconds) == (0, 5, 3)
    for wespeaker in (base, large):
        for phase in (wespeaker.pretrain, wespeaker.finetune, wespeaker.lmft):
            assert phase.gradient_clip_norm == 5
            assert phase.margin.top_k == 5
            assert top_k_penalty(phase.margin.final, phase.margin) == pytest.approx(0.3 * phase.margin.final)
        assert wespeaker.augmentation.babble_snr_db == (10, 30)
        assert (wespeaker.score.top_n, wespeaker.score.deviation) == (300, "biased")

    lap, ecapa = (Parameters.parse(parameters(CONF, recipe=r), "") for r in ("lap_astp", "ecapa_wavlm"))
    assert ecapa.model.speaker_network.kind == "ecapa_tdnn"
    assert (ecapa.pretrain, ecapa.finetune, ecapa.lmft) == (lap.pretrain, lap.finetune, lap.lmft)


def test_recipes_past_both_papers_hold_the_published_values() -> None:
    base, large = (
        Parameters.parse(parameters(CONF, recipe=name), "") for name in ("ca_mhfa_base", "ca_mhfa_large")
    )
    for mhfa, scale, batch in ((base, 0.08, 128), (large, 0.03, 64)):
        pooling = mhfa.model.speaker_network.mhfa
        assert (pooling.num_heads, pooling.context, pooling.embedding_size) == (64, 4, 256)
        assert (mhfa.pretrain.epochs, mhfa.finetune.epochs, mhfa.lmft.epochs) == (0, 30, 5)
        assert (mhfa.finetune.batch_size, mhfa.lmft.batch_size) == (batch, 16)
        for phase, decay in ((mhfa.finetune, 1e-6), (mhfa.lmft, 1e-7)):
            assert (phase.optimiser.kind, phase.optimiser.weight_decay) == ("sgd", decay)
            assert (phase.frontend_grad_scale, phase.gradient_clip_norm) == (scale, 5)
        assert [PhaseSchedule(mhfa.finetune, 1).margin(epoch) for epoch in (0, 4, 29)] == [0, 0.2, 0.2]
        # Eight processes of 16 make twice the reference batch of 64.
        assert PhaseSchedule(mhfa.lmft, 1).learning_rate(1) == pytest.approx(1e-3 * 0.01 ** (1 / 5))
        assert (mhfa.finetune.frontend, mhfa.lmft.frontend) == ("no_convolutions", "trained")
        assert (mhfa.lmft.margin.final, mhfa.lmft.margin.top_k, mhfa.lmft.crop_seconds) == (0.4, 0, 6)
        layer_drop = mhfa.model.frontend.regularisation.layer_drop
        assert (layer_drop, mhfa.lmft.regularisation.layer_drop) == (0.05, 0.1)

    plain, lora, lap, blink = (
        Parameters.parse(parameters(CONF, recipe=name), "")
        for name in ("w2v_bert", "w2v_bert_lora", "lap_astp_w2v_bert", "w2v_bert_voxblink2")
    )
    rates = PhaseSchedule(plain.pretrain, 1)
    assert [rates.learning_rate(epoch) for epoch in range(15)] == pytest.approx(
        [1e-4 * n / 6 for n in range(1, 6)] + 5 * [1e-4] + 5 * [1e-5]
    )
    flat = PhaseSchedule(plain.finetune, 2)
    assert [flat.learning_rate(step) for step in (0, 2, 4, 7)] == pytest.approx([1e-5, 7.5e-6, 5e-6, 5e-6])
    assert PhaseSchedule(plain.lmft, 2).learning_rate(2) == pytest.approx(5e-6)
    assert plain.pretrain.speed_factors == (1.0, 0.9, 1.1)
    assert (plain.lmft.speed_factors, plain.lmft.cut_head, plain.lmft.augment) == ((1.0,), True, False)
    phases = (plain.pretrain, plain.finetune, plain.lmft)
    assert [phase.examples_per_step for phase in phases] == [512, 512, 256]
    assert [phase.crop_seconds for phase in phases] == [(2, 3), (2, 3), (5, 6)]
    assert (lora.pretrain.lora.rank, lora.pretrain.lora.alpha, lora.finetune.lora.rank) == (64, 128, 0)
    assert lora.pretrain.model_copy(update={"lora": plain.pretrain.lora}) == plain.pretrain
    assert (lap.model.layer_aggregation.kind, lap.model.speaker_network.kind) == ("lap", "astp")
    assert (lap.pretrain, lap.finetune, lap.lmft) == (plain.pretrain, plain.finetune, plain.lmft)
    assert {phase.speed_factors for phase in blink.phases.values()} == {(1.0,)}
    assert blink.prepare.training_set == "voxceleb2-dev+voxblink2"


SECRET = {"download": {"mmai": {"key": "from local"}}}


@pytest.mark.parametrize("env", [None, "tiny"])
def test_credentials_of_local_reach_every_environment(conf: Path, env: str | None) -> None:
    (conf / "local/credentials.yml").write_text(yaml.safe_dump(SECRET))
    assert credentials(conf, env) == SECRET


def test_an_environment_may_have_credentials_of_its_own(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESS_KEY", "from the environment")
    (conf / "local/credentials.yml").write_text(yaml.safe_dump(SECRET | {"server": {"user": "ann"}}))
    (conf / "tiny/credentials.yml").write_text("download: {mmai: {key: '${oc.env:ACCESS_KEY}'}}\n")
    own = {"download": {"mmai": {"key": "from the environment"}}, "server": {"user": "ann"}}
    assert credentials(conf, "tiny") == own


def test_without_credentials_their_group_is_empty(conf: Path) -> None:
    shutil.rmtree(conf / "local")
    assert credentials(conf, "tiny") == {"download": {}}


def test_no_parameter_holds_a_credential(conf: Path) -> None:
    (conf / "local/credentials.yml").write_text(yaml.safe_dump(SECRET))
    assert "from local" not in str(parameters(conf))


def data_root(conf: Path, env: str | None) -> str:
    loader = RecipeConfigLoader(str(conf), env, {}, **CONFIG_LOADER_ARGS)  # type: ignore[arg-type]
    catalog_entry = "made: {type: x, filepath: '${globals:data_root}/made'}\n"
    (conf / "base/catalog.yml").write_text(catalog_entry)
    return loader["catalog"]["made"]["filepath"].removesuffix("/made")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("tyni", r"^no environment 'tyni' in .*, which holds local, tiny: did you mean 'tiny'\?$"),
        ("recipes", "^'recipes' is no environment: choose a recipe by --params=recipe=NAME$"),
        ("mhfa", "^'mhfa' is no environment: choose a recipe by --params=recipe=mhfa$"),
    ],
)
def test_an_environment_that_is_none_is_refused_with_the_nearest_one(
    env: str, message: str, conf: Path
) -> None:
    with pytest.raises(ParameterError, match=message):
        parameters(conf, env)


def test_an_environment_has_a_data_root_of_its_own(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("data_root: data\n")
    assert data_root(conf, None) == "data"
    with pytest.raises(ParameterError, match=r"^conf/tiny/globals\.yml must set data_root.* share 'data'"):
        data_root(conf, "tiny")
    (conf / "tiny/globals.yml").write_text("data_root: data/tiny\n")
    assert data_root(conf, "tiny") == "data/tiny"


def test_home_and_variables_in_the_data_root_are_replaced(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/ann")
    monkeypatch.delenv("NOWHERE", raising=False)
    (conf / "base/globals.yml").write_text("data_root: ~/experiments\n")
    assert data_root(conf, None) == str(Path.home() / "experiments")
    (conf / "tiny/globals.yml").write_text("data_root: $SCRATCH/tiny\n")
    assert data_root(conf, "tiny") == "/scratch/ann/tiny"
    for wrong, message in (
        ("$NOWHERE/x", r"variable \$NOWHERE, which is not set"),
        ("s3://bucket/x", "give the path of a folder"),
        ("[a, b]", "give the path of a folder"),
        ("''", "give the path of a folder"),
    ):
        (conf / "tiny/globals.yml").write_text(f"data_root: {wrong}\n")
        with pytest.raises(ParameterError, match=rf"^conf/tiny/globals\.yml: data_root .*{message}"):
            data_root(conf, "tiny")


UNREADABLE = [
    (b"seed: 1\n# caf\xe9\n", r", line 2: not UTF-8"),
    ("seed: 1\n".encode("utf-16"), r", line 1: not UTF-8"),
    (b"seed: 1\nmodel:\n\tkind: lap\n", r", line 3: indented with a tab: use spaces"),
    (b"seed: 1\nmodel: {kind: lap\n", r", line 3: not YAML: expected ',' or '}'"),
    (b"seed: 1\nmodel: a: b\n", r", line 2: not YAML: mapping values are not allowed"),
    (b"seed: 1\nmodel: {kind: a}\nseed: 2\n", r", line 3: duplicate key 'seed', .* line 1"),
    (b"model:\n  kind: a\n  kind: b\n", r", line 3: duplicate key 'kind', .* line 2"),
    (b"- seed\n- model\n", r", line 1: no mapping: .*'name: value'"),
    (b"seed: 1\nmodel: \x00\n", r", line 2: a character that YAML does not allow"),
]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
@pytest.mark.parametrize("file", ["base/parameters.yml", "tiny/parameters_own.yml", "recipes/mhfa.yml"])
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    file: str, content: bytes, message: str, conf: Path
) -> None:
    (conf / file).write_bytes(content)
    with pytest.raises(DataError, match=f"^conf/{file}{message}") as caught:
        parameters(conf, "tiny", recipe="mhfa")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
@pytest.mark.parametrize("key", ["globals", "catalog", "tracking"])
def test_so_are_files_of_every_other_kind(key: str, content: bytes, message: str, conf: Path) -> None:
    (conf / f"base/{key}.yml").write_bytes(content)
    with pytest.raises(DataError, match=f"^conf/base/{key}.yml{message}"):
        RecipeConfigLoader(str(conf), None, {}, **CONFIG_LOADER_ARGS)[key]  # type: ignore[arg-type]


def test_a_byte_order_mark_is_no_mistake(conf: Path) -> None:
    file = conf / "tiny/parameters.yml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert parameters(conf, "tiny")["model"]["heads"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"download: {mmai: {key: SECRET\n", r"^conf/local/credentials\.yml, line 2: not YAML$"),
        (b"download: {mmai: {key: SECRET\xe9\n", "line 1: not UTF-8"),
        (b"SECRET: 1\nSECRET: 2\n", "line 2: duplicate key, .* line 1$"),
        (b"- SECRET\n", "line 1: no mapping"),
        (b"download: {key: '${oc.env:NOWHERE}SECRET'}\n", "Environment variable 'NOWHERE' not found$"),
        (b"download: {key: 'SECRET${oops'}\n", "cannot be resolved$"),
        (b"download: {key: '${SECRET}'}\n", "cannot be resolved$"),
    ],
)
def test_an_error_in_credentials_repeats_none(
    content: bytes, message: str, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    (conf / "local/credentials.yml").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        credentials(conf, "tiny")
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_files_say_together_is_told_in_one_line(conf: Path) -> None:
    (conf / "tiny/parameters.yml").write_text("seed: ${globals:nothing}\n")
    with pytest.raises(DataError, match=r"^conf: parameters: 'seed': .*'nothing' not found") as caught:
        parameters(conf, "tiny")
    assert "\n" not in str(caught.value)
    (conf / "tiny/parameters.yml").write_text("seed: 1\n")
    (conf / "tiny/parameters_more.yml").write_text("seed: 2\n")
    with pytest.raises(DataError, match=r"^conf: parameters: Duplicate keys found in .*seed$"):
        parameters(conf, "tiny")


def test_recipes_based_on_each_other_are_refused(conf: Path) -> None:
    (conf / "recipes/published.yml").write_text("based_on: mhfa_large\n")
    (conf / "recipes/mhfa.yml").write_text("based_on: published\n")
    with pytest.raises(
        ParameterError, match=r"^conf/recipes/published\.yml: 'based_on' is 'mhfa_large', .*this"
    ):
        parameters(conf, recipe="mhfa_large")
    (conf / "recipes/mhfa.yml").write_text("based_on: publish\n")
    with pytest.raises(ParameterError, match=r"^conf/recipes/mhfa\.yml: .*did you mean 'published'\?$"):
        parameters(conf, recipe="mhfa_large")


def test_a_list_of_the_command_line_is_a_list_of_the_run() -> None:
    given = {
        "phase_defaults": {"monitor": "vox1_o;vox1_e"},
        "score": {"p_targets": 0.1},
        "lmft": {"monitor": None},
    }
    taken = parameters(CONF, **given)
    assert taken["finetune"]["monitor"] == ["vox1_o", "vox1_e"]
    assert taken["score"]["p_targets"] == [0.1]
    assert taken["lmft"]["monitor"] == []
    check_parameters(taken)


@pytest.mark.parametrize("wrong", [True, -1, "5", 1.5])
def test_a_fast_dev_run_that_is_no_count_is_refused_by_its_name_alone(wrong: Any) -> None:
    with pytest.raises(ParameterError, match=r"^parameter 'fast_dev_run' is [^;]*$"):
        check_parameters(parameters(CONF, fast_dev_run=wrong))
