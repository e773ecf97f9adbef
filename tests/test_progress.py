"""The lines of the log that say what is being done."""

import logging
import time
from pathlib import Path

import pytest

from secateur import console, progress
from secateur.console import configure_logging, logging_to, track
from secateur.progress import Phase, announced, duration, phase


def test_a_line_has_what_is_done_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1300.0)
    counted = Phase("Scoring units", total=30, done=12, before=2, started=1000.0, figures="1,000 tokens/s")
    assert counted.line() == "Scoring units: 12 of 30 done, 5 min so far, about 9 min left, 1,000 tokens/s"
    assert Phase("loading m", started=1290.0).line() == "loading m: 10 s so far"
    assert Phase("rows", done=7, started=1290.0).line() == "rows: 7 done, 10 s so far"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (480, "8 min"), (4320, "1 h 12 min"), (3599, "1 h 0 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_takes_longer_than_a_minute_says_so_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "secateur")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with phase("cut"):
        for item in track(range(3), "Cutting"):
            if item == 1:
                time.sleep(0.05)
    told = len(caplog.messages)
    assert caplog.messages[0] == "cut …"
    assert any(message.startswith("Cutting: 1 of 3 done, 0 s so far") for message in caplog.messages)
    time.sleep(0.03)
    assert len(caplog.messages) == told


def test_an_error_ends_the_phase(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "secateur")

    @announced("loading")
    def load(name: str) -> None:
        raise ValueError(name)

    with pytest.raises(ValueError, match="out/pruned"):
        load("out/pruned")
    assert caplog.messages == ["loading out/pruned …"]
    assert not progress._watch._phases


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_the_minutes_go_to_the_log_file_alone(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "stderr", console.Console(stderr=True, force_terminal=terminal, width=200))
    configure_logging()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with logging_to(tmp_path / "run.log"), phase("cut"):
        time.sleep(0.05)
    assert "cut: 0 s so far" in (tmp_path / "run.log").read_text(encoding="utf-8")
    shown = capfd.readouterr().err
    assert "cut …" in shown and ("so far" in shown) is not terminal
    assert console.shows_bars() is terminal


def test_quiet_shows_neither_lines_nor_bars(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "stderr", console.Console(stderr=True, force_terminal=True))
    configure_logging(quiet=True)
    with phase("cut"):
        list(track(range(3), "Cutting"))
    logging.getLogger("secateur.x").warning("a warning")
    assert capfd.readouterr().err.strip() == "a warning"
    assert not console.shows_bars()
