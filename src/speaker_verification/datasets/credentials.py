"""Credentials as a dataset, since parameters are logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class CredentialsDataset(AbstractDataset[None, Mapping[str, Any]]):
    """A group of credentials.yml, passed to a node and neither logged nor described.

    Args:
        credentials: group of that name, filled in by Kedro; None if empty.
        metadata: settings of plugins.
    """

    def __init__(
        self, *, credentials: Mapping[str, Any] | None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._credentials = credentials or {}
        self.metadata = metadata

    def load(self) -> Mapping[str, Any]:
        return self._credentials

    def save(self, data: None) -> None:
        raise DatasetError("credentials are written by hand")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}
