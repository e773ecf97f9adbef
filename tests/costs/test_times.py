"""Times of widths: measured, kept, read again, and taken apart into halves."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.costs import Targets
from secateur.costs.latency import times_here
from secateur.costs.losses import keep_losses, kept_losses
from secateur.costs.measure import never_falling
from secateur.costs.quantities import milliseconds_of, rate_of, shown_size, size_of
from secateur.costs.times import Place, WidthTimes, kept_times, read_times, require_same_shape
from secateur.costs.timing import Key, ladder_of, models_of, settled, time_widths
from secateur.errors import InputError
from secateur.models import layer_widths
from secateur.pruning import prune

Models = Callable[..., PreTrainedModel]
PLACE = Place(
    cpu="a processor",
    threads=2,
    gpu="none",
    engine="transformers",
    version="1",
    dtype="float32",
    context=8,
    shape={"family": "llama"},
)


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.costs.timing.MOST_ROUNDS", 2)


@pytest.mark.parametrize(
    ("text", "value"), [("6GB", 6e9), ("900 MB", 9e8), ("1.5GiB", 1.5 * 2**30), ("25ms", 25), ("0.1s", 100), ("40", 40)]
)
def test_quantities(text: str, value: float) -> None:
    read = size_of if "B" in text else milliseconds_of if text.endswith("s") else rate_of
    assert read(text) == pytest.approx(value)


def test_sizes_are_shown_in_the_unit_that_suits_them() -> None:
    assert [shown_size(size) for size in (2.196e8, 6e9, 12_290, 3)] == ["219.6 MB", "6.00 GB", "12.29 kB", "0.00 kB"]


def test_a_fall_is_spread_over_its_neighbours() -> None:
    assert never_falling([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert never_falling([3.0, 1.0], [1.0, 3.0]) == [1.5, 1.5]


def test_turns_that_were_interrupted_do_not_count() -> None:
    times, spread = settled({"uncut": [10.0, 30.0, 10.0, 12.0, 50.0], ("mlp", 8): [8.0, 8.0, 8.0, 8.0, 24.0]})
    assert times == pytest.approx({"uncut": 10.0, ("mlp", 8): 8.0}) and spread == pytest.approx(0.1)


@pytest.mark.parametrize("family", ["llama", "qwen3_5_text", "gemma4_text"])
def test_times_are_taken_apart(tiny_model: Models, family: str) -> None:
    """A machine whose times are known: 0.5 ms for a group, 0.01 for a channel, 0.3 for a half, 7 for the rest."""
    model = tiny_model(family)
    ladder = ladder_of(model, 4)

    def milliseconds(one: PreTrainedModel) -> float:
        from secateur.models.adapters import adapter_of

        total = 7.0
        for layer in adapter_of(one).layers(one):
            for part, unit in (("attention", 0.5), ("mlp", 0.01)):
                half = adapter_of(one).half(layer, part)
                total += 0.0 if half.is_absent else 0.3 + unit * half.units
        return total

    ready: dict[Key, Any] = {
        key: lambda _, one=one: milliseconds(one) / 1000 for key, one in dict(models_of(ladder)).items()
    }
    times = time_widths(ladder, PLACE, nullcontext(ready))
    measure = times.measure(model, 1.0, "")
    assert measure.whole == pytest.approx(milliseconds(model))
    layer = 2 if family == "gemma4_text" else 1  # the others' attention cannot be divided in one of the two
    narrow = {**measure.units, (layer, "mlp"): 48, (layer, "attention"): 2}
    saved = 0.01 * (measure.units[layer, "mlp"] - 48) + 0.5 * 2
    assert measure.whole - measure.of_model(narrow) == pytest.approx(saved)
    if family == "llama":
        assert measure.whole - measure.of_model({**measure.units, (2, "mlp"): 0}) == pytest.approx(0.3 + 0.96)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_they_are_measured_once_and_kept(tiny_model: Models, family: str, private_cache: Path, tmp_path: Path) -> None:
    model = tiny_model(family)
    found = secateur.measure_widths(model, context=20)
    assert found.times.mlp[-1][0] == 96 and found.times.attention[-1][0] == 4 and found.milliseconds > 0
    assert secateur.measure_widths(model, context=20).times == found.times
    assert [*(private_cache / "speeds").glob("*.json")]
    assert layer_widths(model)[0].intermediate_size == 96
    with pytest.raises(InputError, match="no times of widths are kept for"):
        times_here(model, None, Targets(context=21), measures=False)


def test_llama_cpp_is_timed_too(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path
) -> None:
    from tiny import make_tiny_tokenizer

    pytest.importorskip("xllamacpp")
    tokenizer = make_tiny_tokenizer([("a", "b")])
    model = tiny_model(vocab_size=260, num_hidden_layers=2)
    found = secateur.measure_widths(model, tokenizer, engine="llama.cpp", context=8)
    assert found.times.place.dtype == "f16" and found.times.mlp[0][0] == 0 and found.milliseconds > 0
    narrow = tiny_model("cohere2", vocab_size=260)
    with pytest.raises(InputError, match="no graph for this family's layers of different widths"):
        secateur.measure_widths(narrow, tokenizer, engine="llama.cpp")


def table(tmp_path: Path, model: PreTrainedModel, **changes: Any) -> Path:
    """A file of another machine: 1 ms for a group, MLPs no faster below 64 channels."""
    shape = {
        **{"family": "llama", "vocab_size": 259, "hidden_size": 64, "num_hidden_layers": 4, "head_dim": 16},
        **{"heads_per_group": 2, "groups": 4, "channels": 96, "fixed_halves": 0, **changes},
    }
    times = WidthTimes(
        place=PLACE.model_copy(update={"shape": shape}),
        layers=4,
        fixed=2.0,
        attention=[(0, 0.0), (1, 1.0), (4, 4.0)],
        mlp=[(0, 1.0), (64, 1.0), (96, 3.0)],
        spread=0.01,
        seconds=1.0,
    )
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"written by": "secateur", **times.model_dump(mode="json")}))
    return file


def test_a_file_of_another_machine_is_cut_by(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model()
    file = table(tmp_path, model)
    quick = {"windows": 2, "seqlen": 32, "own_text": 0, "importance": "magnitude", "compensate": False}
    result = prune(model, tiny_tokenizer, target_throughput="50", target_device=str(file), **quick)
    reached = result.plan.target
    assert reached is not None and reached.before == pytest.approx(2 + 4 * (4 + 3))
    assert 0.97 * 20 <= reached.reached <= 20
    assert all(width.intermediate_size >= 64 for width in layer_widths(model))
    assert "20.0 ms a token" in reached.said() or "19." in reached.said()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 128}, "has the times of another model: its hidden_size is 128, this one's 64"),
        ({"channels": 64}, "its channels is 64, this one's 96"),
        ({"colour": "red"}, "its colour is red, this one's None"),
    ],
)
def test_times_of_another_model_are_refused(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    model = tiny_model()
    file = table(tmp_path, model, **changes)
    with pytest.raises(InputError, match=message):
        prune(model, tiny_tokenizer, target_latency="20ms", target_device=str(file))
    with pytest.raises(InputError, match="has the times of transformers, not of engine="):
        file = table(tmp_path, model)
        prune(model, tiny_tokenizer, target_latency="20ms", target_device=str(file), engine="llama.cpp")


def test_times_that_are_not_whole_are_refused(tiny_model: Models, tmp_path: Path) -> None:
    model = tiny_model()
    content = json.loads(table(tmp_path, model).read_text())
    file = tmp_path / "changed.json"

    def read(**changes: Any) -> None:
        file.write_text(json.dumps({**content, **changes}))
        require_same_shape(read_times(file), model, str(file))

    read()
    with pytest.raises(InputError, match="its family is not said, this one's llama"):
        read(place={**content["place"], "shape": {}})
    with pytest.raises(InputError, match=r"changed\.json has no times of the mlp of layers; run .* anew"):
        read(mlp=[])
    with pytest.raises(InputError, match=r"measure-widths: a time is longer than 1e\+09 ms"):
        read(mlp=[[0, 0.0], [96, 1e308]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no file of secateur measure-widths"),
        ('{"place": 1}', "is no file of secateur measure-widths: place"),
        ("{", "is no file of secateur measure-widths|not valid JSON"),
    ],
)
def test_what_is_no_file_of_times_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "times.json"
    file.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_times(file)
    assert "\n" not in str(caught.value)


def test_kept_times_of_another_machine_are_not_used(
    tiny_model: Models, private_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = table(tmp_path, tiny_model())
    place = read_times(file).place
    other = place.model_copy(update={"cpu": "another"})
    assert kept_times(place) is None
    kept = private_cache / "speeds" / f"{other.digest}.json"
    kept.write_text(file.read_text())
    kept.chmod(0o600)
    assert kept_times(other) is None
    assert "has the times of transformers 1 (float32) on a processor, 2 threads" in caplog.text


def test_a_missing_package_is_one_line(tiny_model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.costs.llama_cpp.PACKAGE", "no-such-package")
    with pytest.raises(InputError, match=r"times in llama.cpp need a package; run: pip install 'secateur\[gguf\]'"):
        secateur.measure_widths(tiny_model(), None, engine="llama.cpp")


def test_expected_losses_are_kept(private_cache: Path, tmp_path: Path) -> None:
    place = str(tmp_path.resolve())
    keep_losses(tmp_path, 1000, [(0.1, 0.02), (0.3, 0.1)])
    found = kept_losses(place, 1000)
    assert found is not None and found.at(0.2) == pytest.approx(0.06) and found.at(0.05) == pytest.approx(0.01)
    assert found.at(0.4) is None and kept_losses(place, 999) is None and kept_losses("elsewhere", 1000) is None
