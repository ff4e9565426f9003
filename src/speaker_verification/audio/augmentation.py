"""Augmentation of training crops with RIRs, noise, music and speech.

Nothing, or one of five: reverb, noise, music, babble, television; the defaults are those published with LAP.
W2V-BERT's recipe adds up clips at one SNR instead (arXiv 2510.04213 and its public code).
All draws come from the generator that the caller hands in, so that an example depends on its own seed and on
nothing else. What is drawn is read at once, and applied there and then or, in batches, on another device
(see batched_augmentation.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, Field, FiniteFloat, PositiveInt, model_validator

from speaker_verification.audio.cache import AudioCache
from speaker_verification.audio.crops import draw_crop_start, wrap
from speaker_verification.audio.files import energy
from speaker_verification.audio.format import SAMPLE_RATE
from speaker_verification.common.errors import DataError
from speaker_verification.common.settings_base import Settings

PIECE_SAMPLES = 5 * SAMPLE_RATE
PIECE_STEP = 3 * SAMPLE_RATE
LONGEST_KEPT_SAMPLES = 60 * SAMPLE_RATE  # of a file that is kept: most music and speech is longer
LARGE_ROOMS = "simulated_rirs/largeroom/"  # ids of their RIRs begin so
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
    """Relative frequency of each kind of augmentation; 0: never."""

    reverb: float = Field(default=1.0, ge=0)
    """Convolution with an RIR."""
    noise: float = Field(default=1.0, ge=0)
    """One noise clip."""
    music: float = Field(default=1.0, ge=0)
    """One music clip."""
    babble: float = Field(default=1.0, ge=0)
    """Several speech clips."""
    television: float = Field(default=1.0, ge=0)
    """Babble and music over the whole crop."""

    @model_validator(mode="after")
    def _possible(self) -> KindWeights:
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0: give one above 0, or set the probability to 0")
        return self


class AugmentationSettings(Settings):
    """Frequency and strength of augmentation; ranges are closed, lower limit first."""

    probability: float = Field(default=0.6, ge=0, le=1)
    """Share of augmented crops."""
    kinds: KindWeights = KindWeights()
    """Relative weights of the kinds of augmentation; 0: never."""
    simulated_rooms_only: bool = False
    """Leave out the measured RIRs."""
    large_rooms: bool = True
    """Take the simulated RIRs of large rooms as well."""
    music_with_vocals: bool = True
    """Take music with vocals as well, or of which MUSAN's annotations do not say that it has none."""
    noise_snr_db: DecibelRange = (0.0, 15.0)
    """Signal-to-noise ratio of a noise clip in dB."""
    music_snr_db: DecibelRange = (5.0, 15.0)
    """Signal-to-noise ratio of a music clip in dB."""
    babble_snr_db: DecibelRange = (13.0, 20.0)
    """Signal-to-noise ratio of each speech clip of the babble in dB."""
    babble_clips: CountRange = (4, 7)
    """Speech clips in the babble."""
    television_clips: CountRange | None = None
    """Speech clips in the television; null: as in the babble."""
    one_snr: bool = False
    """Add up the clips as they are and scale the sum to one SNR, that of the babble where speech is in it."""
    clips_by_file: bool = False
    """Draw clips evenly by file, and from anywhere in it, instead of evenly by pieces of 5 s."""
    crop_shares: Annotated[tuple[ShareRange, ...], Field(min_length=1)] = ((1.0, 1.0), (0.4, 0.6), (0.2, 0.4))
    """Ranges of the share of a crop that clips cover; one is drawn each time."""
    normalise_peak: bool = False
    """Scale augmented crops to a peak of 1."""
    standardise: bool = False
    """Give crops zero mean and unit variance before and after they are augmented, and RIRs zero mean."""
    on_training_device: bool = False
    """Mix whole batches on the training device instead of single crops in the workers."""
    where_missing: Literal["refuse", "leave_out"] = "refuse"
    """Kinds whose archives the mirror lacks: refuse the run, or leave them out."""
    cache_megabytes: int = Field(default=256, ge=0)
    """Memory of each worker in MB for RIRs and clips of up to a minute; 0: none."""

    @model_validator(mode="after")
    def _possible(self) -> AugmentationSettings:
        if self.normalise_peak and self.standardise:
            raise ValueError("normalise_peak and standardise scale the same crops: set one of them")
        return self

    @property
    def drawn_kinds(self) -> tuple[str, ...]:
        """Kinds that may be drawn; none where nothing is augmented."""
        weights = self.kinds.model_dump() if self.probability else {}
        return tuple(kind for kind, weight in weights.items() if weight)

    @property
    def clip_kinds(self) -> tuple[str, ...]:
        """Kinds of noise clips in use, in alphabetical order."""
        return tuple(sorted({clips for kind in self.drawn_kinds for clips in CLIPS_OF.get(kind, ())}))

    @property
    def takes_rooms(self) -> bool:
        """Whether RIRs are in use."""
        return "reverb" in self.drawn_kinds

    def clips_of(self, noise_clips: pd.DataFrame) -> pd.DataFrame:
        """Rows of a NOISE_CLIPS table that may be drawn."""
        if self.music_with_vocals:
            return noise_clips
        return noise_clips[(noise_clips["kind"] != "music") | ~noise_clips["vocals"]]

    def rirs_of(self, rirs: pd.DataFrame) -> pd.DataFrame:
        """Rows of a RIRS table that may be drawn."""
        if self.simulated_rooms_only:
            rirs = rirs[rirs["kind"] == "simulated"]
        return rirs if self.large_rooms else rirs[~rirs["rir_id"].str.startswith(LARGE_ROOMS)]

    def available(self, noise_clips: pd.DataFrame, rirs: pd.DataFrame) -> AugmentationSettings:
        """The settings without the kinds that cannot be drawn, where these are to be left out.

        Args:
            noise_clips: NOISE_CLIPS table.
            rirs: RIRS table.
        """
        if self.where_missing == "refuse":
            return self
        clip_kinds = {*self.clips_of(noise_clips)["kind"]}
        has_rooms = not self.rirs_of(rirs).empty
        left_out = [
            kind
            for kind in self.drawn_kinds
            if not (has_rooms if kind == "reverb" else {*CLIPS_OF[kind]} <= clip_kinds)
        ]
        if len(left_out) == len(self.drawn_kinds):
            return self.model_copy(update={"probability": 0.0})
        return self.model_copy(update={"kinds": self.kinds.model_copy(update=dict.fromkeys(left_out, 0.0))})


@dataclass(frozen=True)
class Stretch:
    """A stretch of a noise clip or an RIR that was drawn for a crop.

    Attributes:
        name: id of the clip or response.
        path: its file.
        file_samples: length of the file.
        start: first sample of the stretch.
        num_samples: length of the stretch, beyond the file's end from its beginning on; in the crop it may be
            wrapped round.
        channel: channel of the file, from 0.
        position: first sample of the crop that it covers.
        snr_db: signal-to-noise ratio in dB; None of an RIR.
    """

    name: str
    path: str
    file_samples: int
    start: int
    num_samples: int
    channel: int
    position: int = 0
    snr_db: float | None = None

    def read(self, cache: AudioCache) -> Wave:
        """Samples (num_samples,), read-only."""
        if self.start + self.num_samples <= self.file_samples:
            return cache.read(self.path, self.file_samples, self.start, self.num_samples, self.channel)
        whole = cache.read(self.path, self.file_samples, 0, self.file_samples, self.channel)
        return wrap(np.roll(whole, -self.start), self.num_samples)

    def __str__(self) -> str:
        """All that was drawn, for messages."""
        if self.snr_db is None:
            return f"{self.name} channel {self.channel}"
        return (
            f"{self.name} channel {self.channel} samples {self.start} to {self.start + self.num_samples}, "
            f"SNR {self.snr_db:.1f} dB, from sample {self.position} on"
        )


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a crop of S samples, drawn and read.

    Attributes:
        kind: reverb, noise, music, babble or television.
        response: RIR of unit energy that the crop is convolved with, at most (S,); None: no room.
        noises: mixtures of clips, (S,) each, added one after the other; each is multiplied by the crop's
            level as it then is.
        stretches: of the files that the above were read from.
    """

    kind: str
    response: Wave | None = None
    noises: tuple[Wave, ...] = ()
    stretches: tuple[Stretch, ...] = ()


def amplitude(wave: Wave) -> float:
    """Amplitude behind the published level in dB: root of the mean square + 1e-4."""
    mean_square = float(np.einsum("s,s->", wave, wave)) / len(wave)  # the same, however many threads
    return math.sqrt(mean_square + LEVEL_FLOOR)


def deviation(wave: Wave) -> float:
    """Standard deviation, the level of crops and clips that are mixed at one SNR."""
    return float(np.std(wave, dtype=np.float64))


def standardised(wave: Wave) -> Wave:
    """The wave with zero mean and unit variance; a constant one as it is."""
    scale = deviation(wave)
    return (wave - np.float32(wave.mean(dtype=np.float64))) / np.float32(scale) if scale else wave


class ClipPieces:
    """Clips of one kind, split by offsets into pieces of 5 s every 3 s, all of which are drawn evenly.

    A long file therefore weighs more. A file of less than 5 s is one piece. (The published recipe writes the
    pieces to disk and loses such files, and the last piece of a file that it divides without a rest.)
    By file, all files weigh the same, and one that is too short begins anywhere and goes on from its start.
    """

    def __init__(self, clips: pd.DataFrame, cache: AudioCache, by_file: bool = False) -> None:
        """Read the table of clips; no audio is read yet.

        Args:
            clips: rows of a NOISE_CLIPS table, at least one.
            cache: what the clips are read through.
            by_file: see AugmentationSettings.clips_by_file.
        """
        self._cache = cache
        self._by_file = by_file
        self._names = clips["clip_id"].tolist()
        self._paths = clips["path"].tolist()
        self._num_samples = clips["num_samples"].tolist()
        self._num_channels = clips["num_channels"].tolist()
        num_pieces = [
            1 if by_file else 1 + max(length - PIECE_SAMPLES, 0) // PIECE_STEP for length in self._num_samples
        ]
        self._first_piece = list(accumulate(num_pieces[:-1], initial=0))
        self._num_pieces = sum(num_pieces)

    def __len__(self) -> int:
        """Number of pieces."""
        return self._num_pieces

    def draw(self, num_samples: int, rng: np.random.Generator) -> tuple[Wave, Stretch]:
        """Read a random crop of a random piece, and of a random channel where there are several.

        Args:
            num_samples: length wanted; a piece or file that is too short is wrapped round.
            rng: source of all draws.

        Returns:
            Shape (num_samples,), not to be changed; and where it was read.
        """
        piece = int(rng.integers(self._num_pieces))
        clip = bisect_right(self._first_piece, piece) - 1
        channel = int(rng.integers(self._num_channels[clip]))
        clip_samples = self._num_samples[clip]
        if self._by_file:
            repeated = clip_samples
            while repeated <= num_samples:
                repeated *= 2
            start = int(rng.integers(repeated - num_samples)) % clip_samples
            stretch = Stretch(self._names[clip], self._paths[clip], clip_samples, start, num_samples, channel)
            return stretch.read(self._cache), stretch
        piece_start = (piece - self._first_piece[clip]) * PIECE_STEP
        piece_samples = min(PIECE_SAMPLES, clip_samples - piece_start)
        start = piece_start + draw_crop_start(piece_samples, num_samples, rng)
        needed = min(num_samples, piece_samples)
        stretch = Stretch(self._names[clip], self._paths[clip], clip_samples, start, needed, channel)
        return wrap(stretch.read(self._cache), num_samples), stretch


class Augmenter:
    """Augmentation of crops, each with nothing or one of five kinds.

    Attributes:
        settings: probabilities, levels and lengths.
    """

    def __init__(self, noise_clips: pd.DataFrame, rirs: pd.DataFrame, settings: AugmentationSettings) -> None:
        """Read the tables; no audio is read yet.

        Args:
            noise_clips: NOISE_CLIPS table.
            rirs: RIRS table.
            settings: see above.

        Raises:
            DataError: there is no clip of a kind that may be drawn, or no RIR.
        """
        self.settings = settings
        weights = {kind: weight for kind, weight in settings.kinds.model_dump().items() if weight}
        self._kinds = list(weights)
        self._cumulative_weights = list(accumulate(weights.values()))
        self._snr_db = {
            "noise": settings.noise_snr_db,
            "music": settings.music_snr_db,
            "speech": settings.babble_snr_db,
        }
        self._num_speech_clips = {
            "babble": settings.babble_clips,
            "television": settings.television_clips or settings.babble_clips,
        }
        self._level = deviation if settings.one_snr else amplitude
        self._cache = AudioCache(settings.cache_megabytes * 2**20, LONGEST_KEPT_SAMPLES)
        self._pieces = {}
        usable = settings.clips_of(noise_clips)
        for kind in settings.clip_kinds:
            clips = usable[usable["kind"] == kind]
            if clips.empty:
                left_out = kind in {*noise_clips["kind"]}
                known = " known to be without vocals (music_with_vocals=false)" if left_out else ""
                raise DataError(f"table 'noise_clips': no clip of kind '{kind}'{known} to augment with")
            self._pieces[kind] = ClipPieces(clips, self._cache, settings.clips_by_file)
        rirs = settings.rirs_of(rirs)
        if rirs.empty and settings.takes_rooms:
            raise DataError("table 'rirs': no RIR to augment with")
        self._rir_names = rirs["rir_id"].tolist()
        self._rir_paths = rirs["path"].tolist()
        self._rir_samples = rirs["num_samples"].tolist()
        self._rir_channels = rirs["num_channels"].tolist()

    def draw(self, num_samples: int, rng: np.random.Generator) -> Augmentation | None:
        """Draw and read the augmentation of a crop; None for none.

        Args:
            num_samples: length of the crop.
            rng: source of all draws.

        Raises:
            DataError: a clip or an RIR cannot be used; its file is named.
        """
        if rng.random() >= self.settings.probability:
            return None
        drawn = rng.random() * self._cumulative_weights[-1]
        kind = self._kinds[bisect_right(self._cumulative_weights, drawn, hi=len(self._kinds) - 1)]
        if kind == "reverb":
            response, stretch = self._draw_rir(num_samples, rng)
            return Augmentation(kind, response=response, stretches=(stretch,))
        shares = (1.0, 1.0)
        if kind != "television":
            shares = self.settings.crop_shares[rng.integers(len(self.settings.crop_shares))]
        draw = self._draw_sum if self.settings.one_snr else self._draw_mixtures
        noises, stretches = draw(kind, num_samples, shares, rng)
        return Augmentation(kind, noises=noises, stretches=stretches)

    def apply(self, wave: Wave, augmentation: Augmentation | None) -> Wave:
        """Augment a crop.

        Args:
            wave: shape (S,); it is not changed.
            augmentation: drawn for this length; None leaves the wave as it is.

        Returns:
            Shape (S,).
        """
        if augmentation is None:
            return wave
        if self.settings.standardise:
            wave = standardised(wave)
        if augmentation.response is not None:
            from scipy.signal import fftconvolve

            wave = fftconvolve(wave, augmentation.response)[: len(wave)]
        for noise in augmentation.noises:
            wave = wave + np.float32(self._level(wave)) * noise
        if self.settings.normalise_peak:
            wave = wave / (np.abs(wave).max() + np.float32(PEAK_FLOOR))
        return standardised(wave) if self.settings.standardise else wave

    def _draw_rir(self, num_samples: int, rng: np.random.Generator) -> tuple[Wave, Stretch]:
        """Read an RIR scaled to unit energy, cut to the length of the crop."""
        row = int(rng.integers(len(self._rir_paths)))
        path, length = self._rir_paths[row], self._rir_samples[row]
        channel = int(rng.integers(self._rir_channels[row]))
        stretch = Stretch(self._rir_names[row], path, length, 0, length, channel)
        response = stretch.read(self._cache)
        if self.settings.standardise:
            response = response - np.float32(response.mean(dtype=np.float64))
        response_energy = float(energy(response))
        if response_energy == 0:
            raise DataError(f"{path}: channel {channel} of this RIR is silent: prepare the corpus again")
        return response[:num_samples] / np.float32(math.sqrt(response_energy)), stretch

    def _draw_mixtures(
        self, kind: str, num_samples: int, shares: tuple[float, float], rng: np.random.Generator
    ) -> tuple[tuple[Wave, ...], tuple[Stretch, ...]]:
        """Mix the clips of each kind, each at its own level, for a crop of level 1; tell which they are."""
        mixtures, stretches = [], []
        for clips in CLIPS_OF[kind]:
            mixture = np.zeros(num_samples, np.float32)
            for clip, stretch in self._draw_clips(clips, kind, num_samples, shares, rng):
                drawn_db = rng.uniform(*self._snr_db[clips])
                gain = 10 ** (-drawn_db / 20) / amplitude(clip)
                stretches.append(replace(stretch, snr_db=drawn_db))
                mixture[stretch.position : stretch.position + len(clip)] += np.float32(gain) * clip
            mixtures.append(mixture)
        return tuple(mixtures), tuple(stretches)

    def _draw_sum(
        self, kind: str, num_samples: int, shares: tuple[float, float], rng: np.random.Generator
    ) -> tuple[tuple[Wave, ...], tuple[Stretch, ...]]:
        """Add up clips of all kinds as they are, at one level, for a crop of level 1; tell which they are."""
        mixture = np.zeros(num_samples, np.float32)
        stretches = []
        for clips in CLIPS_OF[kind]:
            for clip, stretch in self._draw_clips(clips, kind, num_samples, shares, rng):
                stretches.append(stretch)
                mixture[stretch.position : stretch.position + len(clip)] += clip
        drawn_db = rng.uniform(*self._snr_db[CLIPS_OF[kind][0]])  # speech comes first
        mixture = standardised(mixture) * np.float32(10 ** (-drawn_db / 20))
        return (mixture,), tuple(replace(stretch, snr_db=drawn_db) for stretch in stretches)

    def _draw_clips(
        self, clips: str, kind: str, num_samples: int, shares: tuple[float, float], rng: np.random.Generator
    ) -> Iterator[tuple[Wave, Stretch]]:
        """Clips of one kind for an augmentation of a crop, each with its own length and position."""
        num_clips = self._num_speech_clips[kind] if clips == "speech" else (1, 1)
        for _ in range(rng.integers(*num_clips, endpoint=True)):
            clip_samples = math.ceil(rng.uniform(*shares) * num_samples)
            clip, stretch = self._pieces[clips].draw(clip_samples, rng)
            yield clip, replace(stretch, position=draw_crop_start(num_samples, clip_samples, rng))
