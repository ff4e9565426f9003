"""Text files as editors and shells save them."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE


def decode_text(data: bytes) -> str:
    """Text of a file in UTF-8, or in UTF-16 where a byte order mark says so; without that mark."""
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    return data.decode(encoding, errors="replace")
