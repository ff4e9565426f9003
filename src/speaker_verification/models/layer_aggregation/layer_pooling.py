"""Layer attentive pooling as one differentiable operation that never holds all projected states.

Behind the statistics of its BatchNorm the pooling of a frame depends on that frame alone. So it runs over
blocks of frames that stay in the processor's cache, with one matrix product for all states of a block, and
keeps for the gradient what is small: which state and which channel were the largest, and the weights. The
backward pass needs no second projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from speaker_verification.common.distributed import processes

# Elements of a block of states: the cache of a processor, enough work to fill a GPU.
BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}


NUM_PARAMETERS, KEPT_OF_A_BLOCK = 8, 6


class Standardisation(NamedTuple):
    """Standardisation of states: mean and 1 / deviation of every channel, (D,) each.

    `num_vectors` is the number of vectors, of all processes, behind these moments; 0 for running statistics.
    """

    mean: Tensor
    inverse_deviation: Tensor
    num_vectors: int


class LapParameters(NamedTuple):
    """Learnt parameters up to the pooling: D channels, h heads, L+1 states, Q = (L+1) // 2 squeezed."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    projection_weight: Tensor  # (D, D)
    projection_bias: Tensor  # (D,)
    squeeze_weight: Tensor  # (h, L+1, Q)
    squeeze_bias: Tensor  # (h, 1, Q)
    excite_weight: Tensor  # (h, Q, L+1)
    excite_bias: Tensor  # (h, 1, L+1)

    @property
    def excitation(self) -> tuple[Tensor, ...]:
        return self[4:]


def moments(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel over all vectors of all states, in one pass.

    Source: T. Chan et al., Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.

    Args:
        states: L+1 tensors of shape (N, D).

    Returns:
        (D,) and (D,), at least float32.
    """
    counts, means, squares = [], [], []
    for rows in _blocks(states):
        for state in states:
            vectors = state[rows].to(torch.promote_types(state.dtype, torch.float32))
            mean = vectors.mean(dim=0)
            counts.append(len(vectors))
            means.append(mean)
            squares.append((vectors - mean).square_().sum(dim=0))
    # All blocks but the last are of one size. Filled in place: a copy to a GPU would wait for it.
    share = means[0].new_full((len(counts), 1), counts[0] / sum(counts))
    share[-len(states) :] = counts[-1] / sum(counts)
    block_means = torch.stack(means)
    mean = (share * block_means).sum(dim=0)
    within = torch.stack(squares).sum(dim=0) / sum(counts)
    return mean, within + (share * (block_means - mean).square()).sum(dim=0)


def pool_states(
    states: Sequence[Tensor], standardisation: Standardisation, parameters: LapParameters, dropout: float
) -> Tensor:
    """Project the states, weigh them per head and frame, keep the largest of them.

    Args:
        states: L+1 tensors of shape (N, D); under autocast the products are in its type.
        standardisation: of the states, before the learnt affine map.
        parameters: of norm, projection and squeeze-excite pair.
        dropout: probability of dropping a weight.

    Returns:
        (N, D), head by head; gradients reach the parameters and the states.
    """
    if torch.compiler.is_exporting():  # blocks would fix the number of frames
        return _pool_at_once(states, standardisation, parameters)
    dtype, device_type = states[0].dtype, states[0].device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    with torch.autocast(device_type, enabled=False):
        return _PooledStates.apply(dtype, dropout, standardisation, *parameters, *states)


def _pool_at_once(
    states: Sequence[Tensor], standardisation: Standardisation, parameters: LapParameters
) -> Tensor:
    """Result of `pool_states` without dropout, in one block of plain operations."""
    matrix, offset = _fold(standardisation, parameters, states[0].dtype)
    centred = torch.stack(list(states)) - standardisation.mean  # (L+1, N, D)
    projected = (centred @ matrix.T + offset).unflatten(2, (len(parameters.squeeze_weight), -1))
    summaries = [_heads_first(x, parameters) for x in (projected.mean(dim=3), projected.amax(dim=3))]
    weights = _excite(*summaries, *parameters.excitation).sigmoid()  # (h, N, L+1)
    return (projected * _states_first(weights, projected.dtype)).amax(dim=0).flatten(start_dim=1)


@torch.no_grad()
def state_weights(
    states: Sequence[Tensor], standardisation: Standardisation, parameters: LapParameters
) -> Tensor:
    """The weights that `pool_states` gives every state without dropout, (h, N, L+1)."""
    dtype = states[0].dtype
    folded = _fold(standardisation, parameters, dtype)
    blocks = []
    for rows in _blocks(states):
        projected = _project(_centred(states, rows, standardisation.mean, dtype), folded, parameters)
        summaries = [_heads_first(x, parameters) for x in (projected.mean(dim=3), projected.amax(dim=3))]
        blocks.append(_excite(*summaries, *parameters.excitation).sigmoid())
    return torch.cat(blocks, dim=1)


class _PooledStates(torch.autograd.Function):
    """See `pool_states`; a block has n frames, a head d = D / h channels."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, dropout: float, standardisation: Standardisation, *tensors: Tensor
    ) -> Tensor:
        parameters, states = LapParameters(*tensors[:NUM_PARAMETERS]), tensors[NUM_PARAMETERS:]
        folded = _fold(standardisation, parameters, dtype)
        output, kept = states[0].new_empty(states[0].shape, dtype=dtype), []  # (N, D)
        memory = output.new_empty(2, 0)
        for rows in _blocks(states):
            # The same memory for every block: tensors of megabytes that come and go leave holes in the heap.
            if memory.shape[2:] != (rows.stop - rows.start, output.shape[1]):
                memory = output.new_empty(2, len(states), rows.stop - rows.start, output.shape[1])
            centred = _centred(states, rows, standardisation.mean, dtype, memory[0])
            projected = _project(centred, folded, parameters, memory[1])
            largest, channel = projected.max(dim=3)  # (L+1, n, h)
            summaries = [_heads_first(x, parameters) for x in (projected.mean(dim=3), largest)]
            sure = _excite(*summaries, *parameters.excitation).sigmoid()  # (h, n, L+1)
            weights = functional.dropout(sure, dropout)
            winner, state = projected.mul_(_states_first(weights, dtype)).max(dim=0)  # (n, h, d)
            output[rows] = winner.flatten(start_dim=1)
            if any(ctx.needs_input_grad):
                kept += [state.byte(), channel.short(), *summaries, sure, weights]
        ctx.save_for_backward(output, *tensors, *kept)
        ctx.standardisation, ctx.num_states = standardisation, len(states)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        output, *tensors = ctx.saved_tensors
        first_kept = NUM_PARAMETERS + ctx.num_states
        states, kept = tensors[NUM_PARAMETERS:first_kept], tensors[first_kept:]
        parameters = LapParameters(*tensors[:NUM_PARAMETERS])
        mean, inverse_deviation, num_vectors = ctx.standardisation
        weight, norm_bias = parameters.projection_weight, parameters.norm_bias
        matrix, _ = _fold(ctx.standardisation, parameters, output.dtype)
        wanted = any(ctx.needs_input_grad[-ctx.num_states :])
        to_states = [torch.empty_like(state) for state in states if wanted]
        to_bias, to_excitation = (
            torch.zeros_like(norm_bias),
            [torch.zeros_like(p) for p in parameters.excitation],
        )
        outer = torch.zeros_like(weight)  # projected states' gradients x centred states, summed
        for index, rows in enumerate(_blocks(states)):
            state, channel, *summaries, sure, weights = kept[KEPT_OF_A_BLOCK * index :][:KEPT_OF_A_BLOCK]
            state, depth = state.long(), state.shape[2]
            won = gradient[rows].view_as(state)  # (n, h, d)
            # The gradient of a weight sums won x winner / weight over the channels that its state won; times
            # dropout and the slope of the sigmoid, weight / sure x sure (1 - sure), the weight cancels out.
            slopes = torch.zeros_like(sure)  # (h, n, L+1)
            slopes.transpose(0, 1).scatter_add_(2, state, (won * output[rows].view_as(state)).to(sure.dtype))
            pull = torch.func.vjp(_excite, *summaries, *parameters.excitation)[1]
            to_means, to_largest, *parts = pull(slopes * (1 - sure))
            for total, part in zip(to_excitation, parts, strict=True):
                total += part
            projected = _states_first(to_means / depth, won.dtype).repeat(1, 1, 1, depth)  # (L+1, n, h, d)
            projected.scatter_add_(3, channel.long().unsqueeze(3), _states_first(to_largest, won.dtype))
            won = won * weights.transpose(0, 1).gather(2, state).to(won.dtype)
            projected.flatten(1).scatter_add_(0, state.view(1, -1), won.view(1, -1))
            projected = projected.view(-1, len(mean))  # ((L+1)*n, D)
            outer += projected.T @ _centred(states, rows, mean, won.dtype)
            to_bias += projected.sum(dim=0)
            if wanted:
                for whole, part in zip(to_states, (projected @ matrix).chunk(ctx.num_states), strict=True):
                    whole[rows] = part
        to_norm_bias = to_bias @ weight
        to_norm_weight = (weight * outer).sum(dim=0) * inverse_deviation
        scale = parameters.norm_weight * inverse_deviation
        if to_states and num_vectors:  # the states' part in their own statistics, those of all processes
            along_mean, along_deviation = processes().sum(torch.stack([to_norm_bias, to_norm_weight]))
            for state, whole in zip(states, to_states, strict=True):
                for rows in _blocks(states):
                    standard = (state[rows] - mean) * inverse_deviation
                    whole[rows] -= scale / num_vectors * (along_mean + along_deviation * standard)
        to_weight = outer * scale + torch.outer(to_bias, norm_bias)
        learnt = (to_norm_weight, to_norm_bias, to_weight, to_bias, *to_excitation)
        nothing: tuple[None, ...] = (None,) * ctx.num_states
        return None, None, None, *learnt, *(to_states or nothing)


def _blocks(states: Sequence[Tensor]) -> Iterator[slice]:
    """Frames that are worked on together.

    Raises:
        ValueError: the states are not of one length and width.
    """
    num_frames, width = states[0].shape
    if any(state.shape != states[0].shape for state in states):
        raise ValueError(f"the states are not of one shape: {[tuple(state.shape) for state in states]}")
    limit = BLOCK_ELEMENTS["cpu" if states[0].device.type == "cpu" else "cuda"]
    size = max(1, limit // (len(states) * width))
    for start in range(0, num_frames, size):
        yield slice(start, min(start + size, num_frames))


def _fold(
    standardisation: Standardisation, parameters: LapParameters, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The projection of centred vectors, norm included: matrix (D, D) and offset (D,)."""
    weight = parameters.projection_weight
    matrix = weight * (parameters.norm_weight * standardisation.inverse_deviation)
    return matrix.to(dtype), (parameters.projection_bias + weight @ parameters.norm_bias).to(dtype)


def _centred(
    states: Sequence[Tensor], rows: slice, mean: Tensor, dtype: torch.dtype, memory: Tensor | None = None
) -> Tensor:
    """The states of a block, minus the mean, one below the other: ((L+1)*n, D), in memory of (L+1, n, D).

    The mean is not folded into the projection: where it is far larger than the deviation, that would cancel.
    """
    num_frames = rows.stop - rows.start
    if any(state.shape[1:] != mean.shape for state in states):  # torch would resize `out`, not fill the block
        raise ValueError(f"states of shape {tuple(states[0].shape)} have a mean of shape {tuple(mean.shape)}")
    shape = (len(states), num_frames, len(mean))
    block = torch.empty(shape, dtype=dtype, device=mean.device) if memory is None else memory.view(shape)
    for state, place in zip(states, block, strict=True):
        torch.sub(state[rows], mean, out=place)
    return block.flatten(end_dim=1)


def _project(
    centred: Tensor, folded: tuple[Tensor, Tensor], parameters: LapParameters, memory: Tensor | None = None
) -> Tensor:
    """Projected states of a block, split into heads: (L+1, n, h, d), in memory of (L+1, n, D)."""
    num_heads, num_states, _ = parameters.squeeze_weight.shape
    matrix, offset = folded
    product = torch.empty_like(centred) if memory is None else memory.view(centred.shape)
    torch.addmm(offset, centred, matrix.T, out=product)
    return product.view(num_states, -1, num_heads, len(offset) // num_heads)


def _excite(means: Tensor, largest: Tensor, *excitation: Tensor) -> Tensor:
    """Both summaries through the squeeze-excite pair, summed; all of shape (h, n, L+1)."""
    squeeze, squeeze_bias, excite, excite_bias = excitation
    squeezed = [torch.baddbmm(squeeze_bias, x, squeeze).relu() for x in (means, largest)]
    return torch.baddbmm(2 * excite_bias, squeezed[0] + squeezed[1], excite)


def _heads_first(x: Tensor, parameters: LapParameters) -> Tensor:
    """(L+1, n, h) -> (h, n, L+1), in the type of the parameters."""
    return x.permute(2, 1, 0).to(parameters.squeeze_weight.dtype)


def _states_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(h, n, L+1) -> (L+1, n, h, 1)."""
    return x.permute(2, 1, 0).unsqueeze(3).to(dtype)
