"""Handlers of SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from speaker_verification.common.termination import exit_on_signal, handle_termination


@pytest.fixture(autouse=True)
def handler_of_pytest() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_former_handler_is_put_back_unless_another_one_was_installed_meanwhile() -> None:
    received: list[str] = []
    handle_termination(lambda *_: received.append("outer"))
    restore = handle_termination(lambda *_: received.append("inner"))
    signal.raise_signal(signal.SIGTERM)
    restore()
    signal.raise_signal(signal.SIGTERM)
    handle_termination(lambda *_: received.append("later"))
    restore()
    signal.raise_signal(signal.SIGTERM)
    assert received == ["inner", "outer", "later"]


def test_an_exit_has_the_status_of_a_process_that_the_signal_ended() -> None:
    handle_termination(exit_on_signal)
    with pytest.raises(SystemExit) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
