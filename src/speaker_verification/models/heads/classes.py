"""Single classes of a head: kept from a trained head, or turned towards embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from speaker_verification.models.heads.base import Head

# Of a sub-centre from the direction of its class, a cosine of 0.995: equal ones would stay equal in training.
SUBCENTRE_DISTANCE = 0.1


@torch.no_grad()
def keep_classes(head: Head, trained: Head, places: Mapping[int, int]) -> None:
    """Give classes of a head the weights that they have in another, with all that its classes share.

    Args:
        head: head to change, with a `class_dim`, whole.
        trained: head of the same settings, whole.
        places: class of the trained head by class of the head.

    """
    own, kept = _centres(head, head.state_dict()), _centres(trained, trained.state_dict())
    own[list(places)] = kept[list(places.values())]
    _load(head, trained.state_dict(), own)


@torch.no_grad()
def turn_classes(head: Head, classes: Tensor, directions: Tensor) -> None:
    """Turn classes of a head towards embeddings; every centre keeps its length.

    Several sub-centres lie round their class's direction, each on the side on which it was before. All
    processes call this together.

    Args:
        head: head to change, with a `class_dim`, whole or sharded.
        classes: classes to turn, (n,).
        directions: an embedding of each, of any length, (n, E).
    """
    state = head.state_dict()
    centres = _centres(head, state)  # (C, E) or (C, K, E)
    classes = classes.to(centres.device)
    before = centres[classes]
    towards = functional.normalize(directions.to(before), dim=-1)  # (n, E)
    if before.dim() > 2:
        towards = towards[:, None].expand_as(before)
        if before.shape[1] > 1:
            towards = towards + SUBCENTRE_DISTANCE * functional.normalize(before, dim=-1)
    lengths = torch.linalg.vector_norm(before, dim=-1, keepdim=True)
    centres[classes] = lengths * functional.normalize(towards, dim=-1)
    _load(head, state, centres)


def _centres(head: Head, state: Mapping[str, Tensor]) -> Tensor:
    """Copy of the centres of a head's state, (C, E), or (C, K, E) with K sub-centres."""
    assert head.class_dim is not None, f"{type(head).__name__} has no class_dim"
    return state["weight"].movedim(head.class_dim, 0).clone()


def _load(head: Head, state: Mapping[str, Tensor], centres: Tensor) -> None:
    assert head.class_dim is not None
    head.load_state_dict({**state, "weight": centres.movedim(0, head.class_dim)})
