"""Speed: the tokens that are run, whose memory is counted, whose turn it is."""

import contextlib
import time

import pytest
import torch

from secateur.errors import InputError
from secateur.evaluation import measure_speed, measure_speeds, speed
from secateur.models.memory import Peak


def test_gives_positive_rates_and_a_process_larger_than_the_weights(tiny_model):
    measured = measure_speed(tiny_model(), prompt_tokens=40, new_tokens=5, repeats=2)
    assert measured.prefill_tokens_per_second > 0 and measured.decode_tokens_per_second > 0
    assert measured.peak_memory_bytes > 50e6
    assert measured.memory_measured == "resident set of the process"


def test_decodes_greedily_with_a_cache_past_an_end_token(tiny_model):
    model = tiny_model()
    prompt = speed.random_prompt(model.config.vocab_size, 12, seed=3)
    inputs = []
    hook = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: inputs.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    speed._generate(model, prompt, new_tokens=6)
    hook.remove()
    assert [tuple(ids.shape) for ids in inputs] == [(1, 12)] + [(1, 1)] * 6
    expected = model.generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=-1)[0, 12:]
    assert torch.cat(inputs[1:], dim=1)[0].tolist() == expected.tolist()


def test_the_cache_goes_by_the_name_that_is_not_deprecated(tiny_model, recwarn):
    model = tiny_model()
    speed._generate(model, speed.random_prompt(model.config.vocab_size, 12, seed=3), new_tokens=2)
    assert not [warning for warning in recwarn if "deprecated" in str(warning.message)]


def test_models_take_turns(tiny_model):
    first, second = tiny_model(seed=0), tiny_model(seed=1)
    turns = []
    for name, model in (("first", first), ("second", second)):
        model.register_forward_pre_hook(
            lambda _module, _args, kwargs, name=name: turns.append(name) if kwargs["input_ids"].shape[1] > 1 else None,
            with_kwargs=True,
        )
    assert len(measure_speeds([first, second], prompt_tokens=9, new_tokens=1, repeats=3)) == 2
    assert turns == ["first", "second"] * 4


def test_rates_are_tokens_by_seconds(tiny_model, monkeypatch):
    seconds = iter([(9.0, 9.0), (4.0, 1.0), (2.0, 3.0), (1.0, 2.0)])
    monkeypatch.setattr(speed, "_generate", lambda *_args: next(seconds))
    measured = measure_speed(tiny_model(), prompt_tokens=100, new_tokens=6, repeats=3)
    assert measured.prefill_tokens_per_second == 50
    assert measured.decode_tokens_per_second == 3


def test_no_repeat_begins_after_the_time_is_up(tiny_model, monkeypatch):
    runs = []
    monkeypatch.setattr(speed, "_generate", lambda *_args: runs.append(1) or time.sleep(0.02) or (1.0, 1.0))
    measure_speed(tiny_model(), repeats=50, max_seconds=0.01)
    assert len(runs) == 2


def test_the_peak_is_seen_although_the_memory_is_given_back(tiny_model):
    model = tiny_model()
    # What is freed below another block stays with the C library, and a block that fits in there takes no new memory.
    torch.ones(7_800_000)
    *earlier, above = [torch.ones(7_500_000) for _ in range(16)]
    del earlier
    usual = measure_speed(model, prompt_tokens=4, new_tokens=1, repeats=1)

    def use_memory(*_args):
        block = torch.ones(50_000_000)
        time.sleep(0.1)
        del block

    model.register_forward_hook(use_memory)
    measured = measure_speed(model, prompt_tokens=4, new_tokens=1, repeats=1)
    assert measured.peak_memory_bytes - usual.peak_memory_bytes > 150e6
    del above


def test_weights_of_other_models_are_taken_off(tiny_model, monkeypatch):
    monkeypatch.setattr(speed, "peak_memory", lambda _model: contextlib.nullcontext(Peak(10_000_000)))
    small, large = tiny_model(), tiny_model(intermediate_size=960)
    sizes = [sum(p.numel() * 4 for p in model.parameters()) for model in (small, large)]
    measured = measure_speeds([small, large], prompt_tokens=4, new_tokens=1, repeats=1)
    assert [s.peak_memory_bytes for s in measured] == [10_000_000 - sizes[1], 10_000_000 - sizes[0]]


def test_too_little_gpu_memory_is_one_line(tiny_model, monkeypatch):
    def no_memory(*_args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(speed, "_generate", no_memory)
    with pytest.raises(InputError, match="prompt of 7 tokens does not fit in the GPU's memory"):
        measure_speed(tiny_model(), prompt_tokens=7)
