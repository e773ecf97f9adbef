"""The switch on made-up courses of skewness and distance."""

import json
import math

from secateur.longrange.config import LongRangeConfig
from secateur.longrange.statistics import LayerFigures
from secateur.longrange.switch import Switch

READY = LayerFigures(skewness=2.0, distance=0.1, change_percent=0.5)
EVEN = LayerFigures(skewness=1.0, distance=0.1, change_percent=0.5)
MOVING = LayerFigures(skewness=2.0, distance=0.1, change_percent=5.0)
FIRST = LayerFigures(skewness=9.0, distance=math.nan, change_percent=math.nan)


def switched_at(switch: Switch, course: list[list[LayerFigures]]) -> int | None:
    """The step, counted from 1, at which the switch fires."""
    return next((step for step, layers in enumerate(course, start=1) if switch.update(step, layers)), None)


def test_it_switches_when_all_layers_have_settled() -> None:
    switch = Switch(skewness=1.7, distance=1.3)
    assert switched_at(switch, [[FIRST, FIRST], [EVEN, EVEN], [MOVING, MOVING], [READY, READY], [READY, READY]]) == 4
    assert (switch.step, switch.reason) == (4, "settled")
    assert [check.ready for check in switch.history] == [[False, False]] * 3 + [[True, True]]


def test_it_waits_for_the_last_layer() -> None:
    switch = Switch(skewness=1.7, distance=1.3)
    assert switched_at(switch, [[READY, EVEN], [MOVING, READY], [READY, MOVING], [READY, READY]]) == 4


def test_it_switches_at_the_last_dense_step_in_any_case() -> None:
    switch = Switch(skewness=1.7, distance=1.3, num_dense_train_steps=3)
    assert switched_at(switch, [[EVEN]] * 9) == 3
    assert switch.reason == "num_dense_train_steps"


def test_the_last_dense_step_needs_no_look_at_the_attention() -> None:
    switch = Switch(skewness=1.7, distance=1.3, num_dense_train_steps=3)
    assert switched_at(switch, [[], [], [], []]) == 3
    assert switch.history == []
    assert switched_at(Switch(skewness=1.7, distance=1.3), [[]] * 9) is None


def test_it_never_switches_before_the_initial_steps() -> None:
    switch = Switch(skewness=1.7, distance=1.3, num_init_steps=5)
    assert switched_at(switch, [[READY]] * 9) == 5
    forced = Switch(skewness=1.7, distance=1.3, num_init_steps=5, num_dense_train_steps=2)
    assert switched_at(forced, [[EVEN]] * 9) == 5


def test_no_number_is_not_ready() -> None:
    none = LayerFigures(skewness=math.nan, distance=0.1, change_percent=0.5)
    still = LayerFigures(skewness=2.0, distance=0.0, change_percent=math.inf)
    assert switched_at(Switch(skewness=1.7, distance=1.3), [[FIRST], [none], [still], [READY, FIRST]]) is None


def test_the_thresholds_are_at_least_and_below() -> None:
    switch = Switch(skewness=1.7, distance=1.3)
    assert switch.is_ready(LayerFigures(1.7, 1.0, 1.29))
    assert not switch.is_ready(LayerFigures(1.69, 1.0, 1.29))
    assert not switch.is_ready(LayerFigures(1.7, 1.0, 1.3))


def test_it_switches_once() -> None:
    switch = Switch(skewness=1.7, distance=1.3)
    assert switch.update(1, [READY])
    assert not switch.update(2, [READY])
    assert switch.step == 1
    assert len(switch.history) == 1


def test_the_rule_comes_from_the_configuration() -> None:
    training = LongRangeConfig.of_task("image").training
    switch = Switch.of(training)
    assert (switch.skewness, switch.distance) == (1.7, 1.3)
    assert (switch.num_init_steps, switch.num_dense_train_steps) == (
        training.num_init_steps,
        training.num_dense_train_steps,
    )


def test_the_record_is_json_and_goes_on_from_there() -> None:
    course = [[FIRST, FIRST], [EVEN, READY], [READY, READY]]
    whole, before = (Switch(skewness=1.7, distance=1.3) for _ in range(2))
    assert switched_at(whole, course) == 3
    assert switched_at(before, course[:2]) is None
    text = json.dumps(before.record(), allow_nan=False)
    after = Switch.of_record(json.loads(text))
    assert after.update(3, course[2])
    assert after.record() == whole.record()
    assert math.isnan(after.history[0].layers[0].change_percent)
    assert whole.record()["history"][0]["layers"][0] == {"skewness": 9.0, "distance": None, "change_percent": None}
