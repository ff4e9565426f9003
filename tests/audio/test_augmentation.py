from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile
import yaml

from speaker_verification.audio.augmentation import AugmentationSettings, Augmenter, ClipPieces, amplitude
from speaker_verification.audio.cache import AudioCache
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError, ParameterError
from speaker_verification.common.tables import NOISE_CLIPS, RIRS
from tests.support.config import CONF

Wave = npt.NDArray[np.float32]
NO_CACHE = AudioCache(0, 0)
KINDS = ("reverb", "noise", "music", "babble", "television")


def always(kind: str, **changes: object) -> AugmentationSettings:
    """One kind for every crop, its clips as long as the crop."""
    weights = {other: float(other == kind) for other in KINDS}
    values = {"probability": 1.0, "kinds": weights, "crop_shares": ((1.0, 1.0),)}
    return AugmentationSettings.parse(values | changes, "")


def augment(augmenter: Augmenter, wave: Wave, rng: np.random.Generator) -> Wave:
    return augmenter.apply(wave, augmenter.draw(len(wave), rng))


def write(path: Path, samples: npt.NDArray[np.floating]) -> Path:
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    return path


def clip_table(**clips: Path) -> pd.DataFrame:
    """Clips named KIND_ANYTHING."""
    infos = {name: soundfile.info(path) for name, path in clips.items()}
    rows = [
        [name, name.split("_")[0], str(clips[name]), info.frames, info.channels]
        for name, info in infos.items()
    ]
    return NOISE_CLIPS.conform(pd.DataFrame(rows, columns=NOISE_CLIPS.required))


def response_table(*paths: Path) -> pd.DataFrame:
    infos = [soundfile.info(path) for path in paths]
    rows = [
        [path.stem, "real", str(path), info.frames, info.channels]
        for path, info in zip(paths, infos, strict=True)
    ]
    return RIRS.conform(pd.DataFrame(rows, columns=RIRS.columns.names))


def sine(hertz: int, num_samples: int, amplitude: float = 0.5) -> Wave:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(num_samples) / SAMPLE_RATE)).astype(np.float32)


def mean_square(wave: Wave) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64)))


def floored_db(power: float) -> float:
    return float(10 * np.log10(power + 1e-4))


@pytest.fixture
def clips(tmp_path: Path) -> pd.DataFrame:
    """Tones at whole multiples of 100 Hz: orthogonal over any 160 samples, so that each can be measured."""
    return clip_table(
        noise_a=write(tmp_path / "noise.wav", sine(1000, 3 * SAMPLE_RATE, 0.3)),
        music_a=write(tmp_path / "music.wav", sine(2000, 3 * SAMPLE_RATE, 0.8)),
        speech_a=write(tmp_path / "speech.wav", sine(3000, 3 * SAMPLE_RATE, 0.05)),
    )


@pytest.fixture
def responses(tmp_path: Path) -> pd.DataFrame:
    response = np.zeros(400)
    response[[10, 50, 399]] = 3.0, -4.0, 12.0  # energy 169
    return response_table(write(tmp_path / "room.wav", response))


def test_augmentation_falls_on_the_set_share_and_evenly_on_five_kinds(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    augmenter = Augmenter(clips, responses, AugmentationSettings())
    rng = np.random.default_rng(1)
    drawn = [augmenter.draw(1, rng) for _ in range(10_000)]
    counts = Counter(augmentation.kind for augmentation in drawn if augmentation is not None)
    assert set(counts) == set(KINDS)
    assert abs(counts.total() - 6000) < 3.3 * np.sqrt(10_000 * 0.6 * 0.4)
    expected = counts.total() / 5
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 18.5  # 4 degrees of freedom, p 0.001


def test_kinds_are_drawn_by_weight_and_need_only_their_own_clips(clips: pd.DataFrame) -> None:
    settings = AugmentationSettings.parse(
        {"probability": 1, "kinds": {"reverb": 0, "noise": 3, "music": 0, "babble": 1, "television": 0}}, ""
    )
    augmenter = Augmenter(clips[clips["kind"] != "music"], RIRS.empty(), settings)
    rng = np.random.default_rng(11)
    drawn = (augmenter.draw(1, rng) for _ in range(4000))
    counts = Counter(augmentation.kind for augmentation in drawn if augmentation is not None)
    assert counts["noise"] + counts["babble"] == 4000
    assert abs(counts["noise"] - 3000) < 3.3 * np.sqrt(4000 * 0.75 * 0.25)


def test_measured_rooms_may_be_left_out(clips: pd.DataFrame, tmp_path: Path) -> None:
    table = response_table(
        write(tmp_path / "one.wav", np.eye(1, 40, 1)[0]), write(tmp_path / "two.wav", np.eye(1, 40, 2)[0])
    ).assign(kind=["simulated", "real"])
    augmenter = Augmenter(clips, table, always("reverb", simulated_rooms_only=True))
    impulse = np.eye(1, 8, dtype=np.float32)[0]
    rng = np.random.default_rng(12)
    assert {int(augment(augmenter, impulse, rng).argmax()) for _ in range(40)} == {1}
    with pytest.raises(DataError, match="rirs"):
        Augmenter(clips, table[table["kind"] == "real"], always("reverb", simulated_rooms_only=True))


def test_augmented_crops_may_be_scaled_to_their_peak(clips: pd.DataFrame, responses: pd.DataFrame) -> None:
    loud = AugmentationSettings(probability=1.0)
    wave = sine(500, 1600, 0.01)
    for seed in range(10):
        plain = augment(Augmenter(clips, responses, loud), wave, np.random.default_rng(seed))
        scaling = Augmenter(clips, responses, loud.model_copy(update={"normalise_peak": True}))
        scaled = augment(scaling, wave, np.random.default_rng(seed))
        np.testing.assert_allclose(scaled, plain / (np.abs(plain).max() + 1e-4), rtol=1e-5)
        assert scaled.dtype == np.float32


def test_probability_zero_leaves_every_wave_as_it_is(clips: pd.DataFrame, responses: pd.DataFrame) -> None:
    augmenter = Augmenter(clips, responses, AugmentationSettings(probability=0.0))
    wave = sine(500, 1600)
    assert all(augment(augmenter, wave, np.random.default_rng(seed)) is wave for seed in range(20))


def test_same_seed_same_wave_and_the_input_is_never_changed(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    augmenter = Augmenter(clips, responses, AugmentationSettings(probability=1.0))
    wave = sine(500, 1600)
    before = wave.copy()
    results = [augment(augmenter, wave, np.random.default_rng(seed)) for seed in range(30)]
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result, augment(augmenter, wave, np.random.default_rng(seed)))
        assert result.dtype == np.float32
        assert result.shape == wave.shape
    assert len({result.tobytes() for result in results}) > 20  # the one room gives the same reverb each time
    np.testing.assert_array_equal(wave, before)


def test_reverb_is_the_brute_force_convolution_with_a_response_of_unit_energy(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    wave = np.random.default_rng(2).standard_normal(300).astype(np.float32)
    reverberant = augment(Augmenter(clips, responses, always("reverb")), wave, np.random.default_rng(0))
    expected = np.zeros(300)
    expected[10:] += 3 / 13 * wave[:-10]
    expected[50:] += (
        -4 / 13 * wave[:-50]
    )  # the third echo comes after the crop's end, and counts in the energy
    np.testing.assert_allclose(reverberant, expected, atol=1e-5)
    assert reverberant.dtype == np.float32


def test_an_impulse_comes_out_of_reverb_with_unit_energy(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    impulse = np.zeros(1000, np.float32)
    impulse[0] = 1
    reverberant = augment(Augmenter(clips, responses, always("reverb")), impulse, np.random.default_rng(0))
    assert mean_square(reverberant) * 1000 == pytest.approx(1, abs=1e-6)


def test_reverb_draws_every_response_and_every_channel_evenly(clips: pd.DataFrame, tmp_path: Path) -> None:
    stereo = np.zeros((40, 2))
    stereo[1, 0] = stereo[2, 1] = 1
    mono = np.zeros(40)
    mono[3] = 1
    table = response_table(write(tmp_path / "stereo.wav", stereo), write(tmp_path / "mono.wav", mono))
    augmenter = Augmenter(clips, table, always("reverb"))
    impulse = np.eye(1, 8, dtype=np.float32)[0]
    rng = np.random.default_rng(3)
    delays = Counter(int(augment(augmenter, impulse, rng).argmax()) for _ in range(400))
    assert set(delays) == {1, 2, 3}
    assert abs(delays[3] - 200) < 3.3 * 10  # half of the draws: standard deviation 10
    assert abs(delays[1] - 100) < 3.3 * 8.7


def test_a_silent_response_is_refused_by_name(clips: pd.DataFrame, tmp_path: Path) -> None:
    augmenter = Augmenter(
        clips, response_table(write(tmp_path / "dead_room.wav", np.zeros(40))), always("reverb")
    )
    with pytest.raises(DataError, match=r"dead_room\.wav.*silent"):
        augmenter.draw(10, np.random.default_rng(0))


@pytest.mark.parametrize(("kind", "hertz", "low", "high"), [("noise", 1000, 0, 15), ("music", 2000, 5, 15)])
def test_one_clip_lands_at_a_ratio_within_its_range(
    clips: pd.DataFrame, responses: pd.DataFrame, kind: str, hertz: int, low: float, high: float
) -> None:
    augmenter = Augmenter(clips, responses, always(kind))
    wave = sine(500, SAMPLE_RATE)
    rng = np.random.default_rng(4)
    ratios = []
    for _ in range(200):
        added = augment(augmenter, wave, rng) - wave
        spectrum = np.abs(np.fft.rfft(added))
        assert spectrum.argmax() == hertz  # one second: bins of 1 Hz
        ratios.append(10 * np.log10(mean_square(wave) / mean_square(added)))
    # The floor of 1e-4 in both levels moves the measured ratio by a hundredth of a decibel.
    assert low - 0.02 < min(ratios) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < max(ratios) < high + 0.02


@pytest.mark.parametrize("amplitude", [0.5, 0.005])
def test_levels_are_the_published_ones_to_a_thousandth_of_a_decibel(
    clips: pd.DataFrame, responses: pd.DataFrame, amplitude: float
) -> None:
    settings = always("noise", noise_snr_db=(7.0, 7.0), crop_shares=((0.5, 0.5),))
    wave = sine(500, SAMPLE_RATE, amplitude)
    mixed = augment(Augmenter(clips, responses, settings), wave, np.random.default_rng(5))
    added = mixed - wave
    nonzero = np.flatnonzero(np.abs(added) > 1e-7)
    place = slice(nonzero[0], nonzero[-1] + 1)
    assert place.stop - place.start == pytest.approx(SAMPLE_RATE / 2, abs=2)  # tones pass through zero
    # The clip's level is measured over its own length, the speech's over the whole crop; both with the floor.
    clip_power = 0.3**2 / 2
    gain_db = floored_db(amplitude**2 / 2) - floored_db(clip_power) - 7
    achieved_db = 10 * np.log10(mean_square(added) * 2 / clip_power)
    assert achieved_db == pytest.approx(gain_db, abs=1e-3)


def test_babble_adds_four_to_seven_clips_each_at_its_own_level(
    responses: pd.DataFrame, clips: pd.DataFrame, tmp_path: Path
) -> None:
    fixed = always("babble", babble_snr_db=(13.0, 13.0))
    # Constant clips as long as the crop add up to a constant: the number of clips can be read off.
    table = pd.concat(
        [
            clips[clips["kind"] != "speech"],
            clip_table(speech_flat=write(tmp_path / "flat.wav", np.full(SAMPLE_RATE, 0.2))),
        ]
    )
    augmenter = Augmenter(table, responses, fixed)
    wave = sine(500, SAMPLE_RATE)
    rng = np.random.default_rng(6)
    one = 10 ** ((floored_db(0.125) - floored_db(0.04) - 13) / 20) * 0.2
    counts: Counter[int] = Counter()
    for _ in range(400):
        added = augment(augmenter, wave, rng) - wave
        np.testing.assert_allclose(added, added.mean(), atol=1e-5)
        assert added.mean() / one == pytest.approx(round(added.mean() / one), abs=1e-3)
        counts[round(added.mean() / one)] += 1
    assert set(counts) == {4, 5, 6, 7}
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 16.3


def test_television_is_babble_then_music_over_the_whole_crop_beside_the_babbled_wave(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    levels = {"music_snr_db": (6.0, 6.0), "babble_snr_db": (-20.0, -20.0), "babble_clips": (1, 1)}
    settings = always("television", crop_shares=((0.2, 0.4),), **levels)
    augmenter = Augmenter(clips, responses, settings)
    wave = sine(500, SAMPLE_RATE, 0.1)
    for seed in range(10):
        spectrum = np.fft.rfft(augment(augmenter, wave, np.random.default_rng(seed)))
        power = 2 * (np.abs(spectrum) / SAMPLE_RATE) ** 2
        assert power[500] == pytest.approx(0.1**2 / 2, rel=1e-4)
        babble_db = floored_db(0.1**2 / 2) - floored_db(0.05**2 / 2) + 20
        assert 10 * np.log10(power[3000] / (0.05**2 / 2)) == pytest.approx(babble_db, abs=1e-3)
        music_db = floored_db(power[500] + power[3000]) - floored_db(0.8**2 / 2) - 6
        assert 10 * np.log10(power[2000] / (0.8**2 / 2)) == pytest.approx(music_db, abs=1e-3)


def test_an_application_draws_one_of_three_lengths_and_each_clip_its_own_within(
    responses: pd.DataFrame, clips: pd.DataFrame, tmp_path: Path
) -> None:
    table = pd.concat(
        [
            clips[clips["kind"] != "noise"],
            clip_table(noise_flat=write(tmp_path / "flat.wav", np.full(SAMPLE_RATE, 0.2))),
        ]
    )
    shares = AugmentationSettings().crop_shares
    augmenter = Augmenter(table, responses, always("noise", crop_shares=shares))
    wave = np.zeros(1000, np.float32)
    rng = np.random.default_rng(7)
    lengths, starts = [], []
    for _ in range(600):
        nonzero = np.flatnonzero(augment(augmenter, wave, rng))
        assert nonzero[-1] - nonzero[0] + 1 == len(nonzero)
        lengths.append(len(nonzero) / 1000)
        starts.append(nonzero[0] / max(1000 - len(nonzero), 1))
    whole, half, third = (
        sum(low <= share <= high for share in lengths) for low, high in ((1, 1), (0.401, 0.6), (0.2, 0.4))
    )
    assert whole + half + third == 600
    assert sum((count - 200) ** 2 / 200 for count in (whole, half, third)) < 13.8
    assert min(lengths) < 0.21
    assert 0.59 < max(share for share in lengths if share < 1) <= 0.6
    placed = [start for start, share in zip(starts, lengths, strict=True) if share < 1]
    assert min(placed) < 0.02
    assert max(placed) > 0.98
    assert np.mean(placed) == pytest.approx(0.5, abs=3.3 / np.sqrt(12 * len(placed)))


def test_pieces_of_long_files_weigh_evenly_and_short_files_are_one_piece(tmp_path: Path) -> None:
    ramp = np.arange(11 * SAMPLE_RATE + 100) / 2**18  # exact in float32: a sample tells its place
    pieces = ClipPieces(
        clip_table(
            noise_long=write(tmp_path / "long.wav", ramp),  # pieces from 0, 3 and 6 s; 100 samples are lost
            noise_short=write(tmp_path / "short.wav", -1 - np.arange(4) / 8),
            noise_five=write(tmp_path / "five.wav", -2 - np.arange(5 * SAMPLE_RATE) / 2**18),
        ),
        NO_CACHE,
    )
    assert len(pieces) == 5
    rng = np.random.default_rng(8)
    drawn = [pieces.draw(5 * SAMPLE_RATE, rng)[0] for _ in range(500)]
    firsts = Counter(float(wave[0]) for wave in drawn)
    expected = {0.0, 3 * SAMPLE_RATE / 2**18, 6 * SAMPLE_RATE / 2**18, -1.0, -2.0}
    assert set(firsts) == expected
    assert sum((count - 100) ** 2 / 100 for count in firsts.values()) < 18.5
    assert all(len(wave) == 5 * SAMPLE_RATE for wave in drawn)
    short = next(wave for wave in drawn if wave[0] == -1)
    assert short[:6].tolist() == [-1, -1.125, -1.25, -1.375, -1, -1.125]


def test_a_crop_longer_than_a_piece_wraps_the_piece_and_a_shorter_one_moves_within_it(tmp_path: Path) -> None:
    ramp = np.arange(7 * SAMPLE_RATE) / 2**18
    pieces = ClipPieces(clip_table(noise_a=write(tmp_path / "a.wav", ramp)), NO_CACHE)
    assert len(pieces) == 1
    rng = np.random.default_rng(9)
    long, _ = pieces.draw(6 * SAMPLE_RATE, rng)
    np.testing.assert_array_equal(long[5 * SAMPLE_RATE :], long[:SAMPLE_RATE])
    starts = np.array([pieces.draw(2 * SAMPLE_RATE, rng)[0][0] * 2**18 for _ in range(300)])
    assert starts.max() <= 3 * SAMPLE_RATE
    assert np.mean(starts) == pytest.approx(1.5 * SAMPLE_RATE, abs=3.3 * 3 * SAMPLE_RATE / np.sqrt(12 * 300))


def test_clips_of_several_channels_give_each_channel(tmp_path: Path) -> None:
    stereo = np.stack([np.full(50, 0.25), np.full(50, 0.5)], axis=1)
    pieces = ClipPieces(clip_table(noise_a=write(tmp_path / "a.wav", stereo)), NO_CACHE)
    rng = np.random.default_rng(10)
    assert {float(pieces.draw(10, rng)[0][0]) for _ in range(30)} == {0.25, 0.5}


@pytest.mark.parametrize("kind", ["noise", "music", "speech"])
def test_a_missing_kind_of_clip_is_named_at_once(
    clips: pd.DataFrame, responses: pd.DataFrame, kind: str
) -> None:
    with pytest.raises(DataError, match=f"noise_clips.*'{kind}'"):
        Augmenter(clips[clips["kind"] != kind], responses, AugmentationSettings())


def test_missing_rirs_are_named_at_once(clips: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="rirs"):
        Augmenter(clips, RIRS.empty(), AugmentationSettings())


def test_kinds_without_clips_or_rirs_are_left_out_where_that_is_asked_for(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    settings = AugmentationSettings.parse({"where_missing": "leave_out"}, "")
    without = {kind: clips[clips["kind"] != kind] for kind in ("speech", "music")}
    no_clips, no_rirs = clips.iloc[:0], RIRS.empty()
    assert settings.available(without["speech"], no_rirs).drawn_kinds == ("noise", "music")
    assert settings.available(clips[clips["kind"] == "speech"], responses).drawn_kinds == ("reverb", "babble")
    assert settings.available(clips, responses) == settings
    assert settings.available(no_clips, no_rirs).drawn_kinds == ()
    assert AugmentationSettings().available(no_clips, no_rirs) == AugmentationSettings()
    quiet = settings.model_copy(update={"music_with_vocals": False, "simulated_rooms_only": True})
    assert quiet.available(clips, responses).drawn_kinds == ("noise", "babble")
    assert quiet.available(without["music"], responses).drawn_kinds == ("noise", "babble")


def test_the_defaults_are_the_published_recipe() -> None:
    assert AugmentationSettings().model_dump() == {
        "probability": 0.6,
        "kinds": {"reverb": 1, "noise": 1, "music": 1, "babble": 1, "television": 1},
        "simulated_rooms_only": False,
        "large_rooms": True,
        "music_with_vocals": True,
        "noise_snr_db": (0, 15),
        "music_snr_db": (5, 15),
        "babble_snr_db": (13, 20),
        "babble_clips": (4, 7),
        "television_clips": None,
        "one_snr": False,
        "clips_by_file": False,
        "crop_shares": ((1, 1), (0.4, 0.6), (0.2, 0.4)),
        "normalise_peak": False,
        "standardise": False,
        "on_training_device": False,
        "cache_megabytes": 256,
        "where_missing": "refuse",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("probability", 1.5),
        ("kinds", {"reverb": 0, "noise": 0, "music": 0, "babble": 0, "television": 0}),
        ("kinds", {"babble": -1}),
        ("noise_snr_db", [15, 0]),
        ("babble_clips", [0, 3]),
        ("crop_shares", []),
        ("crop_shares", [[0.5, 1.5]]),
        ("music_snr_db", [0, float("inf")]),
        ("television_clips", [2, 1]),
    ],
)
def test_impossible_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"augmentation.{name}"):
        AugmentationSettings.parse({name: value}, "augmentation")


def test_amplitude_has_the_published_floor() -> None:
    assert amplitude(np.zeros(5, np.float32)) == pytest.approx(0.01)
    assert amplitude(np.full(5, 0.1, np.float32)) == pytest.approx(np.sqrt(0.0101), rel=1e-6)


def w2v_bert_settings() -> AugmentationSettings:
    """Augmentation of arXiv 2510.04213's public code."""
    recipe = yaml.safe_load((CONF / "recipes/w2v_bert.yml").read_text())
    return AugmentationSettings.parse(recipe["augmentation"], "augmentation")


def normalised(wave: np.ndarray) -> np.ndarray:
    centred = wave - wave.mean()
    return centred / np.sqrt((centred**2).mean())


def test_clips_are_added_up_and_then_mixed_at_one_snr_as_published_with_w2v_bert(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names = ["noise_a", "noise_b", "music_a", "music_b", "speech_a", "speech_b", "speech_c"]
    lengths = dict(zip(names, (6000, 700, 9000, 9000, 5000, 40_000, 8000), strict=True))
    sounds = {
        name: (rng.uniform(0.01, 0.2) * (rng.standard_normal(length) + 0.5)).astype(np.float32)
        for name, length in lengths.items()
    }
    table = clip_table(**{name: write(tmp_path / f"{name}.wav", wave) for name, wave in sounds.items()})
    table["vocals"] = table["clip_id"] == "music_b"
    echo = rng.standard_normal(900).astype(np.float32) * np.exp(-np.arange(900) / 200).astype(np.float32)
    rooms = response_table(write(tmp_path / "room.wav", echo)).assign(kind="simulated")
    augmenter = Augmenter(table, rooms, w2v_bert_settings())
    crop = (0.02 * rng.standard_normal(4000) + 0.01).astype(np.float32)
    kinds: Counter[str] = Counter()
    used: set[str] = set()
    num_clips = set()
    for _ in range(1200):
        drawn = augmenter.draw(4000, rng)
        kinds[drawn.kind if drawn else "clean"] += 1
        found = augmenter.apply(crop, drawn)
        if drawn is None:
            np.testing.assert_array_equal(found, crop)
            continue
        if drawn.kind == "reverb":
            expected = normalised(np.convolve(normalised(crop), normalised(echo))[:4000])
        else:
            clips = [
                np.take(sounds[it.name], it.start + np.arange(4000), mode="wrap") for it in drawn.stretches
            ]
            (snr_db,) = {it.snr_db for it in drawn.stretches}
            gain = 10 ** (-snr_db / 20)
            expected = normalised(normalised(crop) + gain * normalised(np.sum(clips, axis=0, dtype=float)))
            told = [it.name.split("_")[0] for it in drawn.stretches]
            used |= {it.name for it in drawn.stretches}
            low, high = (15, 25) if "speech" in told else (5, 20)
            assert low <= snr_db <= high
            if drawn.kind == "babble":
                assert {*told} == {"speech"}
                num_clips.add(len(told))
            else:
                assert told == {"television": ["speech", "music"]}.get(drawn.kind, [drawn.kind])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert used == {*names} - {"music_b"}
    assert num_clips == {3, 4, 5, 6, 7, 8}
    expected_counts = {
        "clean": 400,
        "reverb": 400,
        "noise": 100,
        "music": 100,
        "babble": 100,
        "television": 100,
    }
    chi_square = sum((kinds[kind] - count) ** 2 / count for kind, count in expected_counts.items())
    assert chi_square < 20.5  # 5 degrees of freedom, p 0.001


def test_files_are_drawn_evenly_and_begin_anywhere_where_clips_are_drawn_by_file(tmp_path: Path) -> None:
    ramp = np.arange(9 * SAMPLE_RATE) / 2**18
    pieces = ClipPieces(
        clip_table(
            noise_long=write(tmp_path / "long.wav", ramp),
            noise_short=write(tmp_path / "short.wav", -1 - np.arange(5) / 8),
        ),
        NO_CACHE,
        by_file=True,
    )
    assert len(pieces) == 2
    rng = np.random.default_rng(8)
    drawn = [pieces.draw(SAMPLE_RATE, rng) for _ in range(800)]
    starts = np.array([stretch.start for _, stretch in drawn if stretch.name == "noise_long"])
    assert abs(len(starts) - 400) < 3.3 * np.sqrt(800 / 4)
    assert (
        np.sum((np.histogram(starts, 4, (0, 8 * SAMPLE_RATE))[0] - len(starts) / 4) ** 2)
        < 16.3 * len(starts) / 4
    )
    for wave, stretch in drawn:
        clip = ramp if stretch.name == "noise_long" else -1 - np.arange(5) / 8
        np.testing.assert_array_equal(
            wave, np.take(clip, stretch.start + np.arange(SAMPLE_RATE), mode="wrap")
        )
    assert {stretch.start for _, stretch in drawn if stretch.name == "noise_short"} == {0, 1, 2, 3, 4}


def test_a_silent_clip_adds_nothing_at_one_snr(tmp_path: Path, responses: pd.DataFrame) -> None:
    silent = clip_table(noise_a=write(tmp_path / "silent.wav", np.zeros(500)))
    wave = sine(500, 1600)
    augmenter = Augmenter(silent, responses, always("noise", one_snr=True))
    np.testing.assert_array_equal(augment(augmenter, wave, np.random.default_rng(0)), wave)


def test_large_rooms_may_be_left_out(clips: pd.DataFrame, tmp_path: Path) -> None:
    table = response_table(
        write(tmp_path / "one.wav", np.eye(1, 40, 1)[0]), write(tmp_path / "two.wav", np.eye(1, 40, 2)[0])
    )
    rooms = ["mediumroom/Room001/Room001-00001", "largeroom/Room001/Room001-00001"]
    table = table.assign(rir_id=[f"simulated_rirs/{room}.wav" for room in rooms])
    augmenter = Augmenter(clips, table, always("reverb", large_rooms=False))
    impulse = np.eye(1, 8, dtype=np.float32)[0]
    rng = np.random.default_rng(12)
    assert {int(augment(augmenter, impulse, rng).argmax()) for _ in range(40)} == {1}


def test_the_television_may_have_other_numbers_of_clips_than_the_babble(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    rng = np.random.default_rng(2)
    television = Augmenter(clips, responses, always("television", television_clips=[1, 2]))
    drawn = [television.draw(1000, rng) for _ in range(60)]
    assert {len(it.stretches) for it in drawn if it} == {2, 3}
    babble = Augmenter(clips, responses, always("babble", television_clips=[1, 2]))
    drawn = [babble.draw(1000, rng) for _ in range(60)]
    assert {len(it.stretches) for it in drawn if it} == {4, 5, 6, 7}


def test_music_that_is_not_known_to_be_without_vocals_is_named_where_none_else_is_there(
    clips: pd.DataFrame, responses: pd.DataFrame
) -> None:
    assert clips["vocals"].all()  # as in a table of before there was such a column
    with pytest.raises(DataError, match=r"'music' known to be without vocals \(music_with_vocals=false\)"):
        Augmenter(clips, responses, always("music", music_with_vocals=False))
    Augmenter(clips.assign(vocals=False), responses, always("music", music_with_vocals=False))


def test_crops_are_scaled_in_one_way_alone() -> None:
    with pytest.raises(ParameterError, match="normalise_peak and standardise"):
        AugmentationSettings.parse({"normalise_peak": True, "standardise": True}, "augmentation")
