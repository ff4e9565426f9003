"""Base of the hooks that need the parameters of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from speaker_verification.config.loader import parameters_of

if TYPE_CHECKING:
    from speaker_verification.config.tree import Parameters


class ParameterisedHook:
    """Holds the typed parameters of a run, which its loader parses once for all hooks."""

    def __init__(self) -> None:
        self._parameters: Parameters | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._parameters = parameters_of(context)
