"""Training examples: the waveform and class of an augmented crop of an utterance.

An example is a pure function of (seed, pass, row, length): neither the number of workers nor a resumed run
changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import Dataset

from speaker_verification.audio.augmentation import Augmentation, Augmenter
from speaker_verification.audio.cache import AudioCache
from speaker_verification.audio.crops import draw_crop_start, wrap
from speaker_verification.audio.speed import change_speed, changed_length, source_span, speed_class_offsets
from speaker_verification.audio.utterance_audio import UtteranceAudio
from speaker_verification.common.errors import DataError
from speaker_verification.data.crop_lengths import CropLengths

Key = tuple[int, int, int]  # pass through the corpus, utterance row, samples of the crop


class TrainingExamples(Dataset[tuple[torch.Tensor, int, int]]):
    """Augmented crops with their classes, asked for by (pass, row, length) keys.

    Where each of the N utterances is taken at every speed, row N and those that follow are the utterances at
    the second speed, and so on (see `sampling.UtteranceOrder`).

    Attributes:
        augmenter: augmentation of the crops; None leaves them clean.
        crop_lengths: lengths of the crops of every optimiser step.
        seed: seed of all draws.
    """

    def __init__(
        self,
        training_utterances: pd.DataFrame,
        augmenter: Augmenter | None,
        crop_seconds: float | tuple[float, float],
        speed_factors: Sequence[float],
        seed: int,
        cache_megabytes: int = 0,
        every_speed: bool = False,
    ) -> None:
        """Read the manifest; no audio is read yet.

        Args:
            training_utterances: UTTERANCES table.
            augmenter: augmentation of the crops; None leaves them clean.
            crop_seconds: length of the crops, or lowest and highest length.
            speed_factors: one is drawn for each example; each distinct one makes classes of its own.
            seed: seed of all draws.
            cache_megabytes: see `UtteranceAudio`.
            every_speed: whether the row tells the speed factor instead, of which there are no two alike.

        Raises:
            DataError: there are no utterances.
            ParameterError: the speed factors lack 1.0.
        """
        if training_utterances.empty:
            raise DataError("table 'training_utterances': no utterance to train on")
        self._audio = UtteranceAudio(training_utterances, cache_megabytes)
        self._num_samples = self._audio.num_samples
        self._speakers, speaker_ids = pd.factorize(training_utterances["speaker_id"], sort=True)
        self._speaker_ids: list[str] = speaker_ids.tolist()
        self.augmenter = augmenter
        self.crop_lengths = CropLengths.of(crop_seconds, seed)
        self._speed_factors = tuple(speed_factors)
        self._class_offsets = speed_class_offsets(speed_factors)
        self._class_speeds = tuple(self._class_offsets)
        self._every_speed = every_speed
        self.seed = seed

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self._num_samples)

    def describe(self, key: Key) -> str:
        """Utterance of an example and all that was drawn for it, redrawn for messages.

        Args:
            key: pass number, utterance row and length.

        Raises:
            DataError: a file can no longer be read; it is named.
        """
        utterance, factor, start, _ = self._draw_crop(key)
        drawn = f"crop from sample {start} at speed {factor:g}"
        wave, _, augmentation = self.draw(key)
        if augmentation is not None:
            drawn += f"; {augmentation.kind}: {', '.join(map(str, augmentation.stretches))}"
        peak = np.abs(self._augmented(wave, augmentation)).max()
        return f"{self._audio.utterance_id(utterance)} ({drawn}; peak {peak:.3g})"

    def find_not_finite(self, keys: Iterable[Key]) -> str | None:
        """First example whose waveform is not finite, with the file to blame; None if all are finite.

        Args:
            keys: pass numbers, utterance rows and lengths; the examples are drawn again, one by one.

        Raises:
            DataError: a file cannot be read any more; it is named.
        """
        for key in keys:
            crop, _, augmentation = self.draw(key)
            with np.errstate(all="ignore"):
                if np.isfinite(self._augmented(crop, augmentation)).all():
                    continue
                waves = [(str(self._audio.place(self._draw_crop(key)[0])), crop)]
                for stretch in augmentation.stretches if augmentation else ():
                    waves.append((stretch.path, stretch.read(AudioCache(0, 0))))
                to_blame = next((path for path, wave in waves if not np.isfinite(wave).all()), waves[-1][0])
                return f"the waveform of {self.describe(key)} is not finite because of {to_blame}"
        return None

    @property
    def speakers(self) -> npt.NDArray[np.int64]:
        """Label of every utterance at speed 1: index of its speaker in `speaker_ids`."""
        return self._speakers

    @property
    def speaker_ids(self) -> list[str]:
        """Speakers in the order of their labels at speed 1: sorted."""
        return list(self._speaker_ids)

    @property
    def num_speakers(self) -> int:
        """Number of distinct speakers."""
        return len(self._speaker_ids)

    @property
    def num_classes(self) -> int:
        """Number of classes C: speakers times distinct speed factors."""
        return self.num_speakers * len(self._class_offsets)

    def clean_crop(self, utterance: int, label: int) -> npt.NDArray[np.float32]:
        """Crop from the middle of an utterance at the speed of a class, without augmentation, (longest,).

        Args:
            utterance: index of the utterance.
            label: class.

        Raises:
            DataError: the file cannot be read; it is named.
        """
        factor = self._class_speeds[label // self.num_speakers]
        length = self.crop_lengths.longest
        spare = changed_length(int(self._num_samples[utterance]), factor) - length
        return self._read_crop(utterance, factor, max(spare, 0) // 2, length)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int, int]:
        """Example of an utterance in one pass through the corpus.

        Args:
            key: pass number, utterance row and length.

        Returns:
            Wave, float32 of shape (samples,); label; utterance row.

        Raises:
            DataError: a file cannot be read; it is named.
        """
        wave, label, augmentation = self.draw(key)
        return torch.from_numpy(self._augmented(wave, augmentation)), label, key[1]

    def draw(self, key: Key) -> tuple[npt.NDArray[np.float32], int, Augmentation | None]:
        """Example with its augmentation drawn and read, but not applied.

        Args:
            key: pass number, utterance row and length.

        Returns:
            Clean wave, (samples,); label; augmentation for `augmenter` to apply to the wave.

        Raises:
            DataError: a file cannot be read; it is named.
        """
        utterance, factor, start, rng = self._draw_crop(key)
        wave = self._read_crop(utterance, factor, start, key[2])
        label = int(self._speakers[utterance]) + self._class_offsets[factor] * self.num_speakers
        return wave, label, self.augmenter.draw(len(wave), rng) if self.augmenter is not None else None

    def _augmented(
        self, wave: npt.NDArray[np.float32], augmentation: Augmentation | None
    ) -> npt.NDArray[np.float32]:
        return wave if self.augmenter is None else self.augmenter.apply(wave, augmentation)

    def _draw_crop(self, key: Key) -> tuple[int, float, int, np.random.Generator]:
        """Utterance, speed factor, first sample of the crop at that speed, generator of all further draws."""
        pass_number, row, length = key
        rng = np.random.default_rng([self.seed, pass_number, row])
        speed, utterance = divmod(row, len(self))
        if self._every_speed:
            factor = self._class_speeds[speed]
        else:
            factor = self._speed_factors[rng.integers(len(self._speed_factors))]
        available = changed_length(int(self._num_samples[utterance]), factor)
        return utterance, factor, draw_crop_start(available, length, rng), rng

    def _read_crop(self, utterance: int, factor: float, start: int, length: int) -> npt.NDArray[np.float32]:
        """Crop of the speed-changed utterance; only its source samples are read."""
        source_length = int(self._num_samples[utterance])
        available = changed_length(source_length, factor)
        num_samples = min(length, available)
        span = source_span(start, num_samples, factor, source_length)
        source = self._audio.read(utterance, span.start, span.num_samples)
        crop = change_speed(source, factor)[span.lead : span.lead + num_samples]
        return wrap(crop, length)
