"""Chunked encoding of long recordings in bounded memory, for the wav2vec 2.0 family.

The encoder's own arithmetic, in chunks of frames: convolutions take overlapping pieces of the waveform,
queries attend to all frames a few hundred at a time, and the rest of a block works on single frames. Beside
the L+1 states only a chunk is in memory, and no tensor has the size of T x T frames. Evaluation only:
nothing is dropped and no gradient is kept.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from speaker_verification.models.encoders.wavlm_attention import bias_gates, of_kept_heads, split_heads

# Largest number of elements in a tensor of a chunk, unless a single frame, channel or head has more.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
# torch's fused attention on a CPU computes blocks of this many queries where there are three times as many,
# or more: in chunks of at least three whole blocks its sums do not change.
QUERY_BLOCK = 256
CHUNK_BLOCKS = {"cpu": 3, "cuda": 16}


class EncoderParts(Protocol):
    """Parts of an encoder that are run chunk by chunk; `Wav2Vec2Adapter` describes each of them."""

    encoder: Any

    @property
    def norm_first(self) -> bool: ...

    @property
    def convolutions(self) -> Any: ...

    @property
    def stack(self) -> Any: ...

    def project(self, features: Tensor) -> Tensor: ...

    def num_frames(self, num_samples: int) -> int: ...

    def minimum_samples(self, num_frames: int) -> int: ...

    def position_biases(self, num_frames: int, /) -> Tensor | None: ...


def encode_in_chunks(
    adapter: EncoderParts, waveforms: Tensor, last_state: Literal["after", "before"]
) -> tuple[Tensor, ...]:
    """States of the encoder in evaluation mode, equal to those of the whole waveform to rounding.

    Args:
        adapter: adapter of the encoder.
        waveforms: (B, samples) at 16 kHz, normalised where the encoder needs it.
        last_state: last state after or before the LayerNorm behind the blocks.

    Returns:
        L+1 states of shape (B, T, D).
    """
    _trim_heap()
    stack, norm_first = adapter.stack, adapter.norm_first
    num_frames, config = adapter.num_frames(waveforms.shape[1]), adapter.encoder.config
    # Allocated once: many tensors of megabytes that come and go leave holes in the C library's heap.
    states = waveforms.new_empty(len(stack.layers) + 1, len(waveforms), num_frames, config.hidden_size)
    keys_and_values = waveforms.new_empty(2, *states.shape[1:])
    x = keys_and_values[0]  # (B, T, D), until the first block needs the memory
    _project_features(adapter, waveforms, x)
    # In one piece: a grouped convolution's sums depend on its length in the last digit.
    states[0] = x + stack.pos_conv_embed(x)
    if not norm_first:
        states[0] = stack.layer_norm(states[0])
    biases = adapter.position_biases(num_frames)
    for block, source, output in zip(stack.layers, states, states[1:], strict=False):
        _run_block(block, source, output, keys_and_values, biases, norm_first)
    if norm_first and last_state == "after":
        states[-1] = stack.layer_norm(states[-1])
    del keys_and_values, x
    _trim_heap()
    return states.unbind()


def _trim_heap() -> None:
    """Return freed memory to the operating system, which glibc does not do by itself."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _even_chunks(length: int, most: int) -> Iterator[slice]:
    """Smallest number of slices of at most `most` elements (or 1), as even as possible."""
    count = -(-length // max(most, 1))
    bounds = [index * length // count for index in range(count + 1)]
    yield from itertools.starmap(slice, itertools.pairwise(bounds))


def _query_chunks(num_frames: int, least: int) -> Iterator[slice]:
    """Slices of at least `least` whole blocks of queries, as even as possible.

    The last slice also has the frames that fill no block; too few frames are one slice.
    """
    num_blocks = num_frames // QUERY_BLOCK
    count = max(num_blocks // least, 1)
    starts = [-(-index * num_blocks // count) * QUERY_BLOCK for index in range(count)]
    yield from itertools.starmap(slice, itertools.pairwise([*starts, num_frames]))


def _limit(limits: dict[str, int], x: Tensor) -> int:
    return limits["cpu" if x.device.type == "cpu" else "cuda"]


def _project_features(adapter: EncoderParts, waveforms: Tensor, output: Tensor) -> None:
    """Write the projected output of the convolutions over waveforms (B, samples) to `output`, (B, T, D)."""
    first, *others = adapter.convolutions
    hop = adapter.minimum_samples(2) - adapter.minimum_samples(1)
    norm = getattr(first, "layer_norm", None)
    affine = _norm_over_time(first.conv, norm, waveforms) if isinstance(norm, nn.GroupNorm) else None
    elements_a_frame = len(waveforms) * first.conv.out_channels * hop // first.conv.stride[0]
    for frames in _even_chunks(output.shape[1], _limit(CHUNK_ELEMENTS, waveforms) // elements_a_frame):
        stop = frames.start * hop + adapter.minimum_samples(frames.stop - frames.start)
        x = waveforms[:, None, frames.start * hop : stop]
        x = (
            first(x)
            if affine is None
            else first.activation(torch.addcmul(affine[1], first.conv(x), affine[0]))
        )
        for layer in others:
            x = layer(x)
        output[:, frames] = adapter.project(x)


def _norm_over_time(conv: nn.Conv1d, norm: nn.GroupNorm, waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (B, C, 1) that are equal to a norm of every channel over the whole time.

    Statistics are computed over whole channels, a few at a time, as torch does.

    Args:
        conv: convolution whose output is normalised.
        norm: group norm with a group for every channel.
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
    block: Any, states: Tensor, output: Tensor, memory: Tensor, biases: Tensor | None, norm_first: bool
) -> None:
    """Write a block's output.

    Args:
        block: block of the encoder.
        states: input of the block, (B, T, D).
        output: output of the block, (B, T, D), written in place.
        memory: keys and values, (2, B, T, D), written in place.
        biases: position biases, see `offset_biases`; None where attention has none.
        norm_first: norms before attention and feed-forward network instead of behind them.
    """
    attention, adapter = block.attention, getattr(block, "adapter_layer", None)
    chunks = list(_query_chunks(states.shape[1], _limit(CHUNK_BLOCKS, states)))
    shape = 2, *states.shape[:2], attention.k_proj.out_features  # pruned heads leave memory unused
    memory = memory.flatten()[: math.prod(shape)].view(shape)
    for frames in chunks:
        source = block.layer_norm(states[:, frames]) if norm_first else states[:, frames]
        memory[0, :, frames], memory[1, :, frames] = attention.k_proj(source), attention.v_proj(source)
    key, value = (split_heads(x, attention.head_dim) for x in memory)  # (B, h, T, d)
    for frames in chunks:
        source = block.layer_norm(states[:, frames]) if norm_first else states[:, frames]
        x = states[:, frames] + _attend(attention, source, frames, key, value, biases)
        if norm_first:
            x = x + block.feed_forward(block.final_layer_norm(x))
            x = x if adapter is None else x + adapter(x)
        else:
            x = block.layer_norm(x)
            x = block.final_layer_norm(x + block.feed_forward(x))
        output[:, frames] = x


def _attend(
    attention: Any, source: Tensor, frames: slice, key: Tensor, value: Tensor, biases: Tensor | None
) -> Tensor:
    """Output of attention for n of the frames, (B, n, D).

    Args:
        attention: attention of the block.
        source: input of the query projection, (B, n, D).
        frames: positions of the n frames among all T.
        key: keys of all frames, (B, h, T, d).
        value: values of all frames, (B, h, T, d).
        biases: position biases, see `offset_biases`; None where attention has none.
    """
    if not attention.num_heads:
        return attention.out_proj.bias.expand_as(source)
    query = split_heads(attention.q_proj(source), attention.head_dim)  # (B, h, n, d)
    if biases is None:
        mixed = functional.scaled_dot_product_attention(query, key, value)
    else:
        mixed = torch.empty_like(query)
        num_frames, biases = key.shape[2], of_kept_heads(attention, biases, 0)
        # Queries in reverse order: row r of the view below, shifted by one from row to row, then has the
        # biases of the r-th query, and is copied without an index.
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
