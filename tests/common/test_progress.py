"""Progress of long steps, in a log and on a terminal."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from speaker_verification.common.progress import Pace, busy, duration_text, progress_bar
from tests.support.waiting import wait_until


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    """Terminal of 80 columns that keeps all that is written to it."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal as standard error, to which the log is written."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    handler = logging.StreamHandler()
    logging.root.addHandler(handler)
    try:
        yield screen
    finally:
        logging.root.removeHandler(handler)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (99.6, "1.7 min"),
        (72 * 60, "72 min"),
        (3.25 * 3600, "3.2 h"),
        (70 * 3600, "70 h"),
        (5.2 * 86_400, "5.2 d"),
    ],
)
def test_a_duration_has_its_largest_fitting_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_lines_are_due_after_3_9_and_27_seconds_and_every_ten_minutes_in_the_end() -> None:
    clock = Clock()
    pace = Pace(3.0, clock)
    due = []
    for second in range(3000):
        clock.seconds = 1000.0 + second
        if pace.is_due():
            due.append(second)
    assert due == [3, 9, 27, 81, 243, 729, 1329, 1929, 2529]


def test_a_log_gets_no_line_before_three_seconds_and_then_the_work_done_and_the_time_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with progress_bar("embed utterances", 2000, 500, clock=clock) as advance:
        clock.seconds += 2.9
        advance(100)
        assert not caplog.messages
        clock.seconds += 0.1
        advance(200)  # 300 of 1500 in 3 s: 1200 more take 12 s
        clock.seconds += 5
        advance(100)
        assert caplog.messages == ["embed utterances: 800 of 2,000, 40 %, 12 s left"]


def test_a_step_of_less_than_three_seconds_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with progress_bar("score", 10, clock=clock) as advance:
        for _ in range(10):
            clock.seconds += 0.29
            advance()
        clock.seconds += 10
    with progress_bar("score", 1, clock=clock) as advance:
        clock.seconds += 10
        advance()  # all there is
    assert not caplog.messages


def test_unknown_totals_bytes_and_values_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with progress_bar("convert musan", None, clock=clock) as advance:
        clock.seconds += 4
        advance(1200)
    with progress_bar("download", 5_000_000, in_bytes=True, clock=clock) as advance:
        clock.seconds += 4
        advance(2_000_000)
    with progress_bar("epoch 1/2", 8, value="loss", first_line_seconds=60, clock=clock) as advance:
        clock.seconds += 59
        advance(1, loss=9.0)
        clock.seconds += 1
        advance(1, loss=8.123)
    assert caplog.messages == [
        "convert musan: 1,200, 4.0 s so far",
        "download: 2 of 5 MB, 40 %, 6.0 s left",
        "epoch 1/2: 2 of 8, 25 %, 3.0 min left, loss 8.12",
    ]


def test_a_terminal_shows_a_bar_after_three_seconds_and_log_lines_above_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, log = Clock(), logging.getLogger("speaker_verification")
    with terminal_as_stderr(monkeypatch) as terminal:
        with progress_bar("embed utterances", 10, clock=clock) as advance:
            clock.seconds += 1
            advance()
            assert terminal.getvalue() == ""
            clock.seconds += 2
            advance()
            log.warning("a line [in] between")
            wait_until(lambda: "2 of 10, 20 %, 12 s left" in terminal.getvalue())
        shown = terminal.getvalue()
        assert "embed utterances" in shown
        assert "a line [in] between\n" in shown
        assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden, and is back
        log.warning("after it")
        assert terminal.getvalue() == shown + "after it\n"


def test_a_step_that_counts_nothing_gives_signs_of_life_where_no_bar_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("speaker_verification.common.progress.QUIET_SECONDS", 0.01)
    with busy("package: assemble_verifier", first_line_seconds=0.05):
        wait_until(lambda: bool(caplog.messages))
    assert caplog.messages[0].startswith("package: assemble_verifier: 0.1 s so far")
    caplog.clear()
    with busy("score: score_trials", first_line_seconds=0.2), progress_bar("score", 100) as advance:
        for _ in range(30):
            time.sleep(0.01)
            advance()
    assert not caplog.messages
