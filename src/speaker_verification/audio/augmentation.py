"""Augmentation of training crops with rooms and noises.

Nothing, or one of five: reverb, noise, music, babble, television; the defaults are those published with LAP.
All draws come from the generator that the caller hands in, so that an example depends on its own seed and on
nothing else.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, Field, FiniteFloat, PositiveInt, model_validator

from speaker_verification.audio.crops import draw_crop_start, wrap
from speaker_verification.audio.files import read_audio
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.configuration import Settings
from speaker_verification.errors import DataError

PIECE_SAMPLES = 5 * SAMPLE_RATE
PIECE_STEP = 3 * SAMPLE_RATE
LEVEL_FLOOR = 1e-4  # mean square added before the logarithm
PEAK_FLOOR = 1e-4  # added to the peak that a crop is divided by
CLIPS_OF = {  # kinds of clips that a kind of augmentation takes
    "noise": ("noise",),
    "music": ("music",),
    "babble": ("speech",),
    "television": ("speech", "music"),
}

Wave = npt.NDArray[np.float32]


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]} to {limits[1]} is no range: give the lower limit first")
    return limits


Share = Annotated[float, Field(gt=0, le=1)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_rising)]
DecibelRange = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rising)]
CountRange = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_rising)]


class KindWeights(Settings):
    """How often each kind of augmentation is drawn, relative to the others; 0: never."""

    reverb: float = Field(default=1.0, ge=0)
    noise: float = Field(default=1.0, ge=0)
    music: float = Field(default=1.0, ge=0)
    babble: float = Field(default=1.0, ge=0)
    television: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> KindWeights:
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0: give one above 0, or set the probability to 0")
        return self


class AugmentationSettings(Settings):
    """How often and how strongly training crops are augmented; ranges are closed, lower limit first.

    Attributes:
        probability: share of the crops that are augmented.
        kinds: weights of the kinds among them.
        simulated_rooms_only: leave the measured room responses out.
        noise_snr_db: signal-to-noise ratio of a noise clip.
        music_snr_db: the same of a music clip.
        babble_snr_db: the same of each speech clip of the babble.
        babble_clips: how many speech clips make babble.
        crop_shares: ranges of the share of the crop that clips cover; each application draws one range.
        normalise_peak: scale each augmented crop to a peak of 1.
    """

    probability: float = Field(default=0.6, ge=0, le=1)
    kinds: KindWeights = KindWeights()
    simulated_rooms_only: bool = False
    noise_snr_db: DecibelRange = (0.0, 15.0)
    music_snr_db: DecibelRange = (5.0, 15.0)
    babble_snr_db: DecibelRange = (13.0, 20.0)
    babble_clips: CountRange = (4, 7)
    crop_shares: Annotated[tuple[ShareRange, ...], Field(min_length=1)] = ((1.0, 1.0), (0.4, 0.6), (0.2, 0.4))
    normalise_peak: bool = False


def level_db(wave: Wave) -> float:
    """Level of a wave in dB relative to full scale: 10 log10(mean square + 1e-4)."""
    return 10 * math.log10(float(np.mean(np.square(wave))) + LEVEL_FLOOR)


class ClipPieces:
    """Clips of one kind, cut in thought to pieces of 5 s every 3 s, all of which are drawn evenly.

    A long file therefore weighs more. A file of less than 5 s is one piece. (The published recipe writes the
    pieces to disk and loses such files, and the last piece of a file that it divides without a rest.)
    """

    def __init__(self, clips: pd.DataFrame) -> None:
        """Take the clips; no audio is read yet.

        Args:
            clips: rows of a NOISE_CLIPS table, at least one.
        """
        self._paths = clips["path"].tolist()
        self._num_samples = clips["num_samples"].to_numpy()
        self._num_channels = clips["num_channels"].to_numpy()
        num_pieces = 1 + np.maximum(self._num_samples - PIECE_SAMPLES, 0) // PIECE_STEP
        self._first_piece = np.cumsum(num_pieces) - num_pieces
        self._num_pieces = int(num_pieces.sum())

    def __len__(self) -> int:
        """Number of pieces."""
        return self._num_pieces

    def draw(self, num_samples: int, rng: np.random.Generator) -> Wave:
        """Read a random crop of a random piece, and of a random channel where there are several.

        Args:
            num_samples: length wanted; a piece that is too short is wrapped round.
            rng: source of all draws.

        Returns:
            Shape (num_samples,).
        """
        piece = int(rng.integers(self._num_pieces))
        clip = int(np.searchsorted(self._first_piece, piece, side="right")) - 1
        channel = int(rng.integers(self._num_channels[clip]))
        piece_start = (piece - int(self._first_piece[clip])) * PIECE_STEP
        piece_samples = min(PIECE_SAMPLES, int(self._num_samples[clip]) - piece_start)
        start = piece_start + draw_crop_start(piece_samples, num_samples, rng)
        samples = read_audio(self._paths[clip], start, min(num_samples, piece_samples), channel)
        return wrap(samples, num_samples)


class Augmenter:
    """Draws nothing, or one of five augmentations, for each wave it is called with."""

    def __init__(
        self, noise_clips: pd.DataFrame, room_responses: pd.DataFrame, settings: AugmentationSettings
    ) -> None:
        """Take the catalogs; no audio is read yet.

        Args:
            noise_clips: NOISE_CLIPS table.
            room_responses: ROOM_RESPONSES table.
            settings: probabilities, levels and lengths.

        Raises:
            DataError: there is no clip of a kind that may be drawn, or no room response.
        """
        self._settings = settings
        weights = {kind: weight for kind, weight in settings.kinds.model_dump().items() if weight}
        self._kinds = list(weights)
        self._shares = np.array(list(weights.values())) / sum(weights.values())
        self._levels_and_counts = {
            "noise": (settings.noise_snr_db, (1, 1)),
            "music": (settings.music_snr_db, (1, 1)),
            "speech": (settings.babble_snr_db, settings.babble_clips),
        }
        self._pieces = {}
        for kind in sorted({clip_kind for drawn in self._kinds for clip_kind in CLIPS_OF.get(drawn, ())}):
            clips = noise_clips[noise_clips["kind"] == kind]
            if clips.empty:
                raise DataError(f"table 'noise_clips': no clip of kind '{kind}' to augment with")
            self._pieces[kind] = ClipPieces(clips)
        if settings.simulated_rooms_only:
            room_responses = room_responses[room_responses["kind"] == "simulated"]
        if room_responses.empty and "reverb" in self._kinds:
            raise DataError("table 'room_responses': no room response to augment with")
        self._response_paths = room_responses["path"].tolist()
        self._response_channels = room_responses["num_channels"].to_numpy()

    def __call__(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Augment a crop, or leave it as it is.

        Args:
            wave: shape (samples,); it is not changed.
            rng: source of all draws.

        Returns:
            Shape (samples,).

        Raises:
            DataError: a clip or a room response cannot be used; its file is named.
        """
        if rng.random() >= self._settings.probability:
            return wave
        kinds = {
            "reverb": self.add_reverb,
            "noise": self.add_noise,
            "music": self.add_music,
            "babble": self.add_babble,
            "television": self.add_television,
        }
        augmented = kinds[self._kinds[rng.choice(len(self._kinds), p=self._shares)]](wave, rng)
        if self._settings.normalise_peak:
            return augmented / (np.abs(augmented).max() + np.float32(PEAK_FLOOR))
        return augmented

    def add_reverb(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Convolve with a room response of unit energy and keep the first samples."""
        from scipy.signal import oaconvolve

        row = rng.integers(len(self._response_paths))
        channel = int(rng.integers(self._response_channels[row]))
        response = read_audio(self._response_paths[row], channel=channel)
        energy = float(np.sum(np.square(response), dtype=np.float64))
        if energy == 0:
            raise DataError(f"{self._response_paths[row]}: channel {channel} of this room response is silent")
        heard = response[: len(wave)] / np.float32(math.sqrt(energy))  # the rest sounds after the crop's end
        reverberated: Wave = oaconvolve(wave, heard)[: len(wave)]
        return reverberated

    def add_noise(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Add one noise clip."""
        return self._add_clips(wave, "noise", self._draw_shares(rng), rng)

    def add_music(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Add one music clip."""
        return self._add_clips(wave, "music", self._draw_shares(rng), rng)

    def add_babble(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Add several speech clips."""
        return self._add_clips(wave, "speech", self._draw_shares(rng), rng)

    def add_television(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Add babble and then music, both over the whole crop; the music's level follows the babbled wave."""
        babbled = self._add_clips(wave, "speech", (1.0, 1.0), rng)
        return self._add_clips(babbled, "music", (1.0, 1.0), rng)

    def _draw_shares(self, rng: np.random.Generator) -> tuple[float, float]:
        return self._settings.crop_shares[rng.integers(len(self._settings.crop_shares))]

    def _add_clips(
        self, wave: Wave, kind: str, shares: tuple[float, float], rng: np.random.Generator
    ) -> Wave:
        """Add clips, each with its own length, place and level beside the wave as it came in."""
        snr_db, num_clips = self._levels_and_counts[kind]
        wave_db = level_db(wave)
        mixed = wave.copy()
        for _ in range(rng.integers(*num_clips, endpoint=True)):
            num_samples = math.ceil(rng.uniform(*shares) * len(wave))
            clip = self._pieces[kind].draw(num_samples, rng)
            start = draw_crop_start(len(wave), num_samples, rng)
            gain_db = wave_db - level_db(clip) - rng.uniform(*snr_db)
            mixed[start : start + num_samples] += np.float32(10 ** (gain_db / 20)) * clip
        return mixed
