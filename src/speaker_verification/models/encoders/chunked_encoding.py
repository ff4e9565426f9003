"""Hidden states of long recordings in bounded memory.

The encoder's own arithmetic, in chunks of frames: convolutions take overlapping pieces of the waveform,
queries attend to all frames a few hundred at a time, and all else in a block works on single frames. Beside
the L+1 states themselves only a chunk is held, and no tensor has the size of T x T frames. Evaluation only:
nothing is dropped and no gradient is kept.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from speaker_verification.models.encoders.wavlm_attention import bias_gates, offset_biases, split_heads
from speaker_verification.models.frontend import Frontend

# Elements of the largest tensor of a chunk, unless a single frame, channel or head has more.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
# torch's fused attention on a CPU takes so many queries at a time where there are three times as many, or
# more: in chunks of at least three whole blocks its sums stay as they are.
QUERY_BLOCK = 256
CHUNK_BLOCKS = {"cpu": 3, "cuda": 16}


def encode_in_chunks(frontend: Frontend, waveforms: Tensor) -> tuple[Tensor, ...]:
    """The states that the frontend gives in evaluation mode, to rounding.

    Args:
        frontend: with any of the supported encoders.
        waveforms: (B, samples) at 16 kHz.

    Returns:
        L+1 states of shape (B, T, D), as of `Frontend.forward`.
    """
    _trim_heap()
    blocks: Any = frontend.encoder.encoder
    is_stable = frontend.config.do_stable_layer_norm
    num_frames = _num_frames(frontend, waveforms.shape[1])
    # Allocated once: many tensors of megabytes that come and go leave holes in the C library's heap.
    states = waveforms.new_empty(frontend.num_states, len(waveforms), num_frames, frontend.width)
    keys_and_values = waveforms.new_empty(2, *states.shape[1:])
    x = keys_and_values[0]  # (B, T, D), until the first block needs the place
    _project_features(frontend, frontend.normalise(waveforms), x)
    # In one piece: a grouped convolution's sums depend on its length in the last digit.
    states[0] = x + blocks.pos_conv_embed(x)
    if not is_stable:
        states[0] = blocks.layer_norm(states[0])
    first = blocks.layers[0].attention
    biases = offset_biases(first, num_frames) if isinstance(first, WavLMAttention) else None
    for block, source, output in zip(blocks.layers, states, states[1:], strict=False):
        _run_block(block, source, output, keys_and_values, biases, is_stable)
    if is_stable and frontend.last_state == "after":
        states[-1] = blocks.layer_norm(states[-1])
    del keys_and_values, x
    _trim_heap()
    return states.unbind()


def _trim_heap() -> None:
    """Return freed memory to the operating system, where the C library is glibc, which keeps it otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _even_chunks(length: int, most: int) -> Iterator[slice]:
    """The fewest slices of at most so much (or 1), as even as can be."""
    count = -(-length // max(most, 1))
    bounds = [index * length // count for index in range(count + 1)]
    yield from itertools.starmap(slice, itertools.pairwise(bounds))


def _query_chunks(num_frames: int, least: int) -> Iterator[slice]:
    """Slices of whole blocks of queries, at least so many of them, as even as can be.

    The last has the frames that fill no block; where there are too few frames, they are one slice.
    """
    num_blocks = num_frames // QUERY_BLOCK
    count = max(num_blocks // least, 1)
    starts = [-(-index * num_blocks // count) * QUERY_BLOCK for index in range(count)]
    yield from itertools.starmap(slice, itertools.pairwise([*starts, num_frames]))


def _limit(limits: dict[str, int], x: Tensor) -> int:
    return limits["cpu" if x.device.type == "cpu" else "cuda"]


def _num_frames(frontend: Frontend, num_samples: int) -> int:
    """Number of frames, T."""
    length = num_samples
    for kernel, stride in zip(frontend.config.conv_kernel, frontend.config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
    return length


def _project_features(frontend: Frontend, waveforms: Tensor, output: Tensor) -> None:
    """Convolve waveforms (B, samples) and fill in the projections of what comes out, (B, T, D)."""
    encoder: Any = frontend.encoder
    config = frontend.config
    first, *others = encoder.feature_extractor.conv_layers
    hop = frontend.minimum_samples(2) - frontend.minimum_samples(1)
    norm = getattr(first, "layer_norm", None)
    affine = _norm_over_time(first.conv, norm, waveforms) if isinstance(norm, nn.GroupNorm) else None
    elements_a_frame = len(waveforms) * config.conv_dim[0] * hop // config.conv_stride[0]
    for frames in _even_chunks(output.shape[1], _limit(CHUNK_ELEMENTS, waveforms) // elements_a_frame):
        stop = frames.start * hop + frontend.minimum_samples(frames.stop - frames.start)
        x = waveforms[:, None, frames.start * hop : stop]
        x = (
            first(x)
            if affine is None
            else first.activation(torch.addcmul(affine[1], first.conv(x), affine[0]))
        )
        for layer in others:
            x = layer(x)
        projected = encoder.feature_projection(x.transpose(1, 2))
        output[:, frames] = projected[0] if isinstance(projected, tuple) else projected  # HuBERT: the one


def _norm_over_time(conv: nn.Conv1d, norm: nn.GroupNorm, waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (B, C, 1) that a norm of every channel over all of the time comes to.

    Its statistics are taken over whole channels, a few at a time, as torch takes them.

    Args:
        conv: whose output is normalised.
        norm: with a group for every channel.
        waveforms: (B, samples).
    """
    batch, num_samples = waveforms.shape
    length = (num_samples - conv.kernel_size[0]) // conv.stride[0] + 1
    statistics = []
    for channels in _even_chunks(conv.out_channels, _limit(CHUNK_ELEMENTS, waveforms) // (batch * length)):
        bias = None if conv.bias is None else conv.bias[channels]
        x = functional.conv1d(waveforms[:, None], conv.weight[channels], bias, conv.stride)
        _, *moments = torch.native_group_norm(
            x.to(norm.weight.dtype), None, None, batch, x.shape[1], length, x.shape[1], norm.eps
        )
        statistics.append(torch.stack(moments))
    mean, inverse_deviation = torch.cat(statistics, dim=2)  # (B, C)
    scale = inverse_deviation * norm.weight
    return scale.unsqueeze(2), torch.addcmul(norm.bias, scale, mean, value=-1).unsqueeze(2)


def _run_block(
    block: Any, states: Tensor, output: Tensor, memory: Tensor, biases: Tensor | None, is_stable: bool
) -> None:
    """Fill in a block's output.

    Args:
        block: of any supported encoder.
        states: its input, (B, T, D).
        output: (B, T, D).
        memory: place for the keys and the values, (2, B, T, D).
        biases: of the positions, see `offset_biases`; None where attention has none.
        is_stable: the norms stand before attention and feed-forward network rather than behind them.
    """
    attention, adapter = block.attention, getattr(block, "adapter_layer", None)
    chunks = list(_query_chunks(states.shape[1], _limit(CHUNK_BLOCKS, states)))
    for frames in chunks:
        source = block.layer_norm(states[:, frames]) if is_stable else states[:, frames]
        memory[0, :, frames], memory[1, :, frames] = attention.k_proj(source), attention.v_proj(source)
    key, value = (split_heads(x, attention.num_heads) for x in memory)  # (B, h, T, d)
    for frames in chunks:
        source = block.layer_norm(states[:, frames]) if is_stable else states[:, frames]
        x = states[:, frames] + _attend(attention, source, frames, key, value, biases)
        if is_stable:
            x = x + block.feed_forward(block.final_layer_norm(x))
            x = x if adapter is None else x + adapter(x)
        else:
            x = block.layer_norm(x)
            x = block.final_layer_norm(x + block.feed_forward(x))
        output[:, frames] = x


def _attend(
    attention: Any, source: Tensor, frames: slice, key: Tensor, value: Tensor, biases: Tensor | None
) -> Tensor:
    """Attention's output (B, n, D) for n frames.

    Args:
        attention: of the block.
        source: what these frames' queries are projected from, (B, n, D).
        frames: which of all frames they are.
        key: of all frames, (B, h, T, d).
        value: of all frames, (B, h, T, d).
        biases: see `offset_biases`.
    """
    query = split_heads(attention.q_proj(source), attention.num_heads)  # (B, h, n, d)
    if biases is None:
        mixed = functional.scaled_dot_product_attention(query, key, value)
    else:
        mixed = torch.empty_like(query)
        num_frames = key.shape[2]
        # Queries in reverse: row r of the view below, shifted by one from row to row, then has the biases of
        # the r-th of them, and is copied without a detour.
        query, gates = query.flip(2), bias_gates(attention, source).flip(2)  # (B, h, n, d), (B, h, n, 1)
        offsets = slice(num_frames - frames.stop, 2 * num_frames - 1 - frames.start)
        shifted = biases[:, offsets].unfold(1, num_frames, 1)  # (h, n, T)
        together = _limit(CHUNK_ELEMENTS, source) // (source.shape[1] * num_frames)
        for row, heads in itertools.product(range(len(source)), _even_chunks(len(biases), together)):
            here = slice(row, row + 1), heads
            bias = shifted[heads].contiguous().unsqueeze(0).mul_(gates[here])  # (1, heads, n, T)
            mixed[here] = functional.scaled_dot_product_attention(
                query[here], key[here], value[here], attn_mask=bias.to(query.dtype)
            ).flip(2)
    return attention.out_proj(mixed.transpose(1, 2).flatten(start_dim=2))
