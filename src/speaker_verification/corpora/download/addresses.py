"""Addresses of files, and masking of credentials in messages and logs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator

from speaker_verification.common.settings_base import expanded

CREDENTIALS_FILE = "conf/local/credentials.yml"


def is_address(mirror: str | None) -> bool:
    """Whether a mirror is a base URL, not a folder."""
    return mirror is not None and mirror.lower().startswith(("http://", "https://"))


def without_credentials(address: str) -> str:
    """Refuse text that is no address, and credentials in one, which would be logged with the parameters.

    Raises:
        ValueError: without repeating the address.
    """
    parts = urlsplit(address)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"must hold no user, password or query: these belong in {CREDENTIALS_FILE}")
    return address


Address = Annotated[str, AfterValidator(without_credentials)]


def _folder_or_address(mirror: str) -> str:
    return without_credentials(mirror) if is_address(mirror) else expanded(mirror)


FolderOrAddress = Annotated[str, AfterValidator(_folder_or_address)]


def masked(text: str, secrets: Sequence[str]) -> str:
    """A text with secrets and the values of queries masked: a host may have put its own there."""
    for secret in {form for known in secrets for form in (known, quote(known, safe=""))}:
        text = text.replace(secret, "***")
    return re.sub(r"([?&][^=\s&?]+=)[^&\s'\")]+", r"\1***", text)


@contextmanager
def secrets_out_of_logs(secrets: Sequence[str]) -> Iterator[None]:
    """Mask secrets in the HTTP library's log of requests, in every thread."""
    log = logging.getLogger("urllib3.connectionpool")

    def mask(record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage(), secrets), ()
        return True

    log.addFilter(mask)
    try:
        yield
    finally:
        log.removeFilter(mask)
