"""What the values of a task file may be: lm-eval itself takes any, and fails, or measures nothing, later on."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from secateur.files.input_text import shortened

MOST_SHOTS = 1000
MOST_TOKENS = 100_000
GENERATE_CODE = ("custom_generate", "trust_remote_code", "assistant_model", "streamer")

Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Text = StrictStr | StrictInt | StrictFloat
Number = StrictInt | StrictFloat


class _Values(BaseModel):
    # A Python function that a trusted file names may stand anywhere: only what is written out is checked.
    model_config = ConfigDict(allow_inf_nan=False, extra="allow")


class Metric(_Values):
    """An entry of `metric_list` or `aggregate_metric_list`."""

    metric: Any
    aggregation: Any = None
    higher_is_better: StrictBool | None = None
    hf_evaluate: StrictBool | None = None
    weight_by_size: StrictBool | None = None


class FilterStep(_Values):
    """A function of a filter with its arguments."""

    function: Name


class Filter(_Values):
    """An entry of `filter_list`: what is done to the answers before they count."""

    name: Name
    filter: list[FilterStep] = Field(min_length=1)


class Generation(BaseModel):
    """`generation_kwargs`: how answers are written. They go to the model's `generate`, so others are refused."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid")

    until: StrictStr | list[StrictStr] | None = None
    do_sample: StrictBool | None = None
    temperature: Number | None = Field(default=None, ge=0, le=100)
    max_gen_toks: StrictInt | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_new_tokens: StrictInt | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_tokens: StrictInt | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_length: StrictInt | None = Field(default=None, ge=1, le=MOST_TOKENS)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    typical_p: Number | None = Field(default=None, gt=0, le=1)
    top_k: StrictInt | None = Field(default=None, ge=0, le=MOST_TOKENS)
    num_beams: StrictInt | None = Field(default=None, ge=1, le=64)
    repetition_penalty: Number | None = Field(default=None, gt=0, le=100)
    length_penalty: Number | None = Field(default=None, ge=-100, le=100)
    no_repeat_ngram_size: StrictInt | None = Field(default=None, ge=0, le=1000)
    early_stopping: StrictBool | None = None


class FewShot(_Values):
    """`fewshot_config`: where solved examples come from."""

    sampler: StrictStr | None = None
    split: Name | None = None
    fewshot_indices: list[Annotated[StrictInt, Field(ge=0)]] | None = None


class TaskValues(_Values):
    """A task or a group. What is not given, or null, is lm-eval's to settle."""

    task: Any = None
    group: Any = None
    task_alias: StrictStr | None = None
    group_alias: StrictStr | None = None
    tag: Name | list[Name] | None = None
    dataset_path: Name | None = None
    dataset_name: Name | None = None
    training_split: Name | None = None
    validation_split: Name | None = None
    test_split: Name | None = None
    fewshot_split: Name | None = None
    fewshot_config: FewShot | None = None
    num_fewshot: StrictInt | None = Field(default=None, ge=0, le=MOST_SHOTS)
    description: Any = None
    target_delimiter: StrictStr | None = None
    fewshot_delimiter: StrictStr | None = None
    output_type: Name | None = None
    generation_kwargs: dict[str, Any] | None = None
    gen_prefix: StrictStr | None = None
    repeats: StrictInt | None = Field(default=None, ge=1, le=MOST_SHOTS)
    metric_list: list[Metric] | None = Field(default=None, min_length=1)
    aggregate_metric_list: Metric | list[Metric] | None = None
    filter_list: list[Filter] | None = Field(default=None, min_length=1)
    should_decontaminate: StrictBool | None = None
    doc_to_decontamination_query: StrictStr | None = None
    metadata: dict[str, Any] | None = None


def complaint(kind: type[BaseModel], values: Any) -> str | None:
    """What is wrong with values, the first of it, such as "num_fewshot: Input should be …"; None if nothing is."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        place = shortened(".".join(str(part) for part in problem["loc"]))
        given = problem["input"]
        plain = not isinstance(given, dict | list) and problem["type"] != "missing"
        message = re.sub(r"a valid dictionary or instance of \w+", "a mapping", problem["msg"])
        return (f"{place}: " if place else "") + message + (f", not {shortened(repr(str(given)))}" if plain else "")
    return None
