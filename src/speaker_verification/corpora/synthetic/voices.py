"""Synthetic speakers: espeak-ng's voice variants, each with a pitch, pace and vocal tract of its own."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speaker_verification.audio.format import SAMPLE_RATE

_FEMALE = """
Alicia Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda steph steph2 steph3
"""
_MALE = """
Alex Andy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen Reed
RicishayMax RicishayMax2 adam announcer antonio benjamin boris caleb david ed edward edward2 grandpa
gustave ian iven iven2 iven3 iven4 john kaukovalta klatt klatt3 klatt4 klatt6 m1 m2 m3 m4 m5 m6 m7
m8 marcelo max michel miguel mike2 norbert pablo paul pedro quincy rob robert sandro shelby travis
victor zac
"""
FEMALE_VARIANTS, MALE_VARIANTS = tuple(_FEMALE.split()), tuple(_MALE.split())
FORMANT_SHIFTS = (0.88, 1.14)

_ESPEAK_RATE = 22_050  # Hz
_SYNCHRONOUS, _UTF8, _CHARACTERS = 2, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# who, does, what, where: any one of each makes a sentence
_SENTENCES = {
    "en-us": (
        (
            "The old sailor",
            "A quiet teacher",
            "My youngest cousin",
            "The village doctor",
            "Our new neighbour",
        ),
        ("carefully painted", "never noticed", "gladly repaired", "quickly forgot", "proudly carried"),
        (
            "a yellow bicycle",
            "seven wooden boxes",
            "the broken window",
            "some fresh bread",
            "her favourite song",
        ),
        ("behind the railway station", "before the storm", "on a foggy morning", "under the stone bridge"),
    ),
    "de": (
        (
            "Der junge Bäcker",
            "Meine Großmutter",
            "Ein freundlicher Nachbar",
            "Die kleine Katze",
            "Unser Lehrer",
        ),
        ("suchte lange", "fand endlich", "vergaß gestern", "kaufte heimlich", "zeigte uns"),
        ("einen blauen Mantel", "das alte Fahrrad", "zwei frische Brötchen", "die lange Brücke"),
        ("hinter dem Bahnhof", "vor dem großen Regen", "am frühen Morgen", "in der stillen Küche"),
    ),
    "es": (
        ("El viejo pescador", "Mi hermana mayor", "Un médico amable", "La vecina nueva", "Nuestro maestro"),
        ("buscaba siempre", "encontró por fin", "pintó despacio", "olvidó ayer", "llevaba con orgullo"),
        ("una bicicleta roja", "siete cajas vacías", "la ventana rota", "el pan caliente"),
        ("detrás de la estación", "antes de la lluvia", "por la mañana temprano", "cerca del puente"),
    ),
    "it": (
        (
            "Il vecchio marinaio",
            "Mia cugina Giulia",
            "Un medico gentile",
            "La nuova vicina",
            "Il nostro maestro",
        ),
        ("cercava sempre", "trovò finalmente", "dipinse con cura", "dimenticò ieri", "portava volentieri"),
        ("una bicicletta gialla", "sette scatole vuote", "la finestra rotta", "il pane fresco"),
        ("dietro la stazione", "prima del temporale", "di mattina presto", "sotto il ponte di pietra"),
    ),
    "fr": (
        (
            "Le vieux marin",
            "Ma petite cousine",
            "Un médecin aimable",
            "La nouvelle voisine",
            "Notre professeur",
        ),
        ("cherchait toujours", "trouva enfin", "peignait lentement", "oublia hier", "portait fièrement"),
        ("une bicyclette jaune", "sept boîtes vides", "la fenêtre cassée", "du pain frais"),
        ("derrière la gare", "avant l'orage", "tôt le matin", "sous le pont de pierre"),
    ),
}


@dataclass(frozen=True)
class Voice:
    """Constant properties of a synthetic speaker.

    Attributes:
        variant: espeak-ng's voice variant.
        pitch: 0 to 99, espeak-ng's scale.
        pitch_range: 0 to 99, the liveliness of the intonation.
        words_per_minute: pace.
        formant_shift: factor on all frequencies, as of a shorter (above 1) or longer vocal tract.
    """

    variant: str
    pitch: int
    pitch_range: int
    words_per_minute: int
    formant_shift: float

    @property
    def gender(self) -> str:
        """f or m."""
        return "f" if self.variant in FEMALE_VARIANTS else "m"


def draw_voices(num_voices: int, rng: np.random.Generator) -> list[Voice]:
    """Draw voices of which no two have the same vocal tract, nor the same variant while these last.

    Args:
        num_voices: number of voices.
        rng: source of all randomness.
    """
    variants = np.array(FEMALE_VARIANTS + MALE_VARIANTS)
    order = np.concatenate([rng.permutation(variants) for _ in range(-(-num_voices // len(variants)))])
    shifts = rng.permutation(np.linspace(*FORMANT_SHIFTS, num_voices))
    return [
        Voice(
            variant=str(variant),
            pitch=int(rng.integers(20, 81)),
            pitch_range=int(rng.integers(25, 76)),
            words_per_minute=int(rng.integers(140, 201)),
            formant_shift=float(shift),
        )
        for variant, shift in zip(order, shifts, strict=False)
    ]


def speak(voice: Voice, min_seconds: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Say random sentences of a random language until they last long enough.

    espeak-ng keeps a state of its own from call to call: the same calls give the same sound in a fresh
    process only.

    Args:
        voice: who speaks; pitch and pace vary a little from call to call.
        min_seconds: least duration.
        rng: source of the words and of the variation.

    Returns:
        16 kHz samples, full scale 1, shape (samples,).
    """
    from scipy.signal import resample_poly

    language = rng.choice(list(_SENTENCES))
    pitch = int(np.clip(voice.pitch + rng.integers(-4, 5), 0, 99))
    pace = round(voice.words_per_minute * rng.uniform(0.93, 1.07) / voice.formant_shift)
    said: list[npt.NDArray[np.float64]] = []
    while sum(map(len, said)) < min_seconds * SAMPLE_RATE:
        sentence = " ".join(str(rng.choice(words)) for words in _SENTENCES[language])
        wave = _synthesise(f"{sentence}.", f"{language}+{voice.variant}", pitch, voice.pitch_range, pace)
        # read at the shifted rate: all frequencies, and the pace, scale with it
        down = round(_ESPEAK_RATE * voice.formant_shift / 50)
        said.append(resample_poly(wave / 32768, SAMPLE_RATE // 50, down))
    return np.concatenate(said)


def _synthesise(text: str, voice: str, pitch: int, pitch_range: int, pace: int) -> npt.NDArray[np.int16]:
    library, chunks, _ = _espeak()
    chunks.clear()
    library.espeak_SetVoiceByName(voice.encode())
    for parameter, value in ((_RATE, pace), (_PITCH, pitch), (_RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    library.espeak_Synth(encoded, size, 0, _CHARACTERS, 0, _UTF8, None, None)
    return np.concatenate(chunks)


@functools.cache
def _espeak() -> tuple[ctypes.CDLL, list[npt.NDArray[np.int16]], object]:
    """The library, once per process, the list that it fills with an utterance, and what fills it.

    The library keeps only a pointer to the last, which must live as long.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    chunks: list[npt.NDArray[np.int16]] = []

    @_CALLBACK
    def collect(wave, num_samples: int, events: int) -> int:  # type: ignore[no-untyped-def]
        if wave and num_samples:
            chunks.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # breath noise would be seeded by the clock
    return library, chunks, collect
