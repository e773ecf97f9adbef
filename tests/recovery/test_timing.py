"""What fits into --max-minutes, and what is said of it; on a clock that the test sets."""

import logging

import pytest

from secateur.recovery import RecoverConfig
from secateur.recovery.callbacks import StepLosses
from secateur.recovery.checkpoints import TrainingProgress
from secateur.recovery.timing import TimeLimit


class Clock:
    """A training whose steps and validations take as long as they are told, of 1,000 tokens a step."""

    def __init__(self, validation: float = 0.0, tokens: int = 1000, **options: object) -> None:
        self.progress = TrainingProgress(micro_batch_size=1)
        self.limit = TimeLimit(RecoverConfig(**options), self.progress, evaluates=validation > 0)
        self.tokens = tokens
        self.steps = 0
        if validation:
            self.validate(validation)

    def validate(self, seconds: float) -> None:
        self.progress.seconds += seconds
        self.limit.evaluation_took(seconds)

    def step(self, seconds: float, total: int = 1000) -> None:
        self.steps += 1
        self.progress.seconds += seconds
        self.progress.tokens += self.tokens
        self.limit.step_took(seconds)
        self.limit.estimate(self.steps, total)


def test_how_many_steps_fit_is_said_after_a_few(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(max_minutes=2, tokens=100_000)
    for seconds in (9.0, 1.0, 1.0):  # the first takes longer and does not count
        clock.step(seconds)
    assert clock.limit.expected is None
    clock.step(1.0)
    assert clock.limit.expected == 4 + 120 - 12
    (line,) = caplog.messages
    assert "A step takes 1.00 s: about 112 of the 1000 steps fit into --max-minutes 2, 11,200,000 tokens" in line


def test_it_ends_so_that_the_last_validation_fits() -> None:
    clock = Clock(validation=10.0, max_minutes=1)
    while not clock.limit.is_over:
        clock.step(2.0)
    assert 60 - 2 <= clock.progress.seconds + 10 <= 60
    assert clock.limit.share_used == pytest.approx(1.0)
    assert not clock.limit.has_room_to_evaluate


def test_without_a_limit_nothing_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(validation=1.0)
    for _ in range(5):
        clock.step(1e6)
    assert not clock.limit.is_over and clock.limit.has_room_to_evaluate and clock.limit.share_used == 0
    assert clock.limit.expected is None and not caplog.messages


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"tokens": 100}, "5,900 tokens (59 steps); fewer than 100,000 win little back"),
        ({"warmup_steps": 80}, "ends the training after 59 steps, within its --warmup-steps 80"),
        ({"tokens": 10**5, "validation": 8}, "Validation will take 67 % of --max-minutes 1"),
        ({"tokens": 10**5}, None),
    ],
    ids=["tokens", "warm-up", "validation", "enough"],
)
def test_what_is_too_little_is_warned_of_once(
    options: dict[str, int], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(max_minutes=1, **options)
    while clock.steps < 10 and not clock.limit.is_over:
        clock.step(1.0 if clock.steps else 2.0)
    clock.limit.warn_of_too_little(clock.steps, clock.progress.tokens + 10**6)
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(found) == (warning is not None)
    assert all(str(warning) in message for message in found), found


def test_a_bar_shows_the_loss_of_this_step_and_the_log_the_mean() -> None:
    losses = StepLosses(has_teacher=True)
    assert losses.latest == {}  # nothing, and not nan, before the first step
    losses.add(3.0, 1.0)
    losses.add(2.0, 0.5)
    assert losses.latest == {"cross_entropy": 2.0, "kl_divergence": 0.5}
    assert losses.means() == {"cross_entropy": 2.5, "kl_divergence": 0.75}
    losses.add(1.0, 0.1)
    assert losses.means() == {"cross_entropy": 1.0, "kl_divergence": 0.1}
    assert losses.means() == {}
    plain = StepLosses(has_teacher=False)
    plain.add(3.0, 0.0)
    assert plain.means() == plain.latest == {"cross_entropy": 3.0}
