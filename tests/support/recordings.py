"""Encoded recordings of known sound."""

from __future__ import annotations

import functools
import io

import av
import numpy as np

FORMATS = {  # container and codec, by the ending of such files
    "wav": ("wav", "pcm_s16le"),
    "telephone.wav": ("wav", "pcm_mulaw"),
    "24 bit.wav": ("wav", "pcm_s24le"),
    "float.wav": ("wav", "pcm_f32le"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "aac": ("adts", "aac"),
    "opus": ("ogg", "libopus"),
    "ogg": ("ogg", "vorbis"),
    "webm": ("webm", "libopus"),
}


@functools.cache
def babble(seconds: float, rate: int, channels: int = 1, level: float = 0.1) -> np.ndarray:
    """Noise between 200 and 1500 Hz that swells four times a second, the same at every rate.

    Returns:
        Shape (channels, samples), of root mean square `level`.
    """
    rng = np.random.default_rng(7)
    frequencies, phases = rng.uniform(200, 1500, 100), rng.uniform(0, 2 * np.pi, 100)
    time = np.arange(round(seconds * rate)) / rate
    wave = np.zeros(len(time))
    for frequency, phase in zip(frequencies, phases, strict=True):
        wave += np.sin(2 * np.pi * frequency * time + phase)
    wave *= 1 + np.sin(2 * np.pi * 4 * time)
    return np.repeat((level * wave / wave.std())[None], channels, axis=0)


def encoded(samples: np.ndarray, rate: int, container: str, codec: str, with_picture: bool = False) -> bytes:
    """File of samples (1, 2 or 8 channels, samples) in [-1, 1]; an empty codec leaves the sound out."""
    layout = {1: "mono", 2: "stereo", 8: "7.1"}[len(samples)]
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        picture = output.add_stream("mpeg4", rate=10) if with_picture else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        if codec:
            sound = output.add_stream(codec, rate=rate, options={"strict": "experimental"})
            sound.layout = "stereo" if codec == "vorbis" else layout
            resampler = av.AudioResampler(sound.format, sound.layout, sound.rate)
            interleaved = samples.T.reshape(1, -1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                output.mux(sound.encode(part))
            output.mux(sound.encode(None))
        if picture is not None:
            for number in range(20):
                shades = np.full((48, 64, 3), 10 * number, np.uint8)
                output.mux(picture.encode(av.VideoFrame.from_ndarray(shades, format="rgb24")))
            output.mux(picture.encode(None))
    return stream.getvalue()
