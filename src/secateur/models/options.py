"""What every command that loads a model lets its user choose, and how functions take their options."""

import difflib
import functools
import inspect
import logging
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.errors import OptionError
from secateur.files.option_names import by_present_names
from secateur.files.shares import hint
from secateur.wording import argument, know_options, option_lines, worded

logger = logging.getLogger(__name__)

LARGEST_SEED = 2**32 - 1  # what every library takes

DType = Literal["auto", "float32", "bfloat16", "float16"]


class LoadOptions(BaseModel):
    """How a model is loaded."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    dtype: DType = Field(
        default="auto",
        description="Number format. auto: the checkpoint's on a GPU; on a CPU bfloat16 where it is fast, else float32.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    device_map: str | None = Field(
        default=None, description="auto: spread a model that is larger than one device (Accelerate)."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the model.")

    def load_arguments(self) -> dict[str, Any]:
        """These options as the keyword arguments of `secateur.load`."""
        return {name: getattr(self, name) for name in LoadOptions.model_fields}


class StreamOptions(LoadOptions):
    """How a model is loaded that may be larger than memory."""

    stream: bool | None = Field(
        default=None,
        description="Leave the weights in their files and have one layer in memory at a time (CPU); by itself where "
        "they would take more than 60 % of memory.",
    )

    def load_arguments(self) -> dict[str, Any]:
        """As `LoadOptions`, with `stream`."""
        return {**super().load_arguments(), "stream": self.stream}


for _options in (LoadOptions, StreamOptions):
    know_options(_options)
LOADING = frozenset(StreamOptions.model_fields)  # of which a function that is given a loaded model needs none

# Of the functions that take a config's options: their other arguments, and the fields they have no use for.
_arguments: dict[type[BaseModel], set[str]] = {}
_unused: dict[type[BaseModel], Collection[str]] = {}

Config = TypeVar("Config", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])


def takes_options(
    config: type[BaseModel], *, hidden: Collection[str] = LOADING, also: Mapping[str, Any] | None = None
) -> Callable[[Function], Function]:
    """Show the options of a function, the fields of its config, in its signature and its docstring.

    The function collects them in `**options` and hands those to `configured`. What type checkers see of them is the
    `TypedDict` of the same names, which `make options` writes.

    Args:
        config: the pydantic model.
        hidden: fields that the function has no use for. They are taken all the same, as they are in a config.
        also: types by name, of fields for which the function takes more than the config.
    """
    know_options(config)
    _unused[config] = hidden

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {each.name for each in own}
        _arguments.setdefault(config, set()).update(taken)
        names = [name for name in config.model_fields if name not in taken and name not in hidden]
        shown = {name: config.model_fields[name] for name in sorted(names, key=LOADING.__contains__)}
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty
                if field.is_required()
                else field.get_default(call_default_factory=True),
                annotation=(also or {}).get(name, field.annotation),
            )
            for name, field in shown.items()
        ]
        checks = [check for check in _CHECKS if check.concerns(signature)]

        @functools.wraps(function)
        def checked(*arguments: Any, **given: Any) -> Any:
            values = {**dict(zip(signature.parameters, arguments, strict=False)), **given}
            for check in checks:
                if check.name in values and not check.fits(values[check.name]):
                    raise OptionError(check.complaint(function.__name__, values[check.name]))
            return function(*arguments, **given)

        described: Any = checked
        described.__signature__ = signature.replace(parameters=[*own, *options])
        described.__doc__ = "\n".join(
            [inspect.getdoc(function) or "", "", "Options:", *(f"    {line}" for line in option_lines(shown))]
        )
        described.options_config, described.options_shown = config, tuple(shown)
        return described

    return show


@dataclass(frozen=True)
class _Check:
    """Whether an argument is what its annotation says: a name in the place of a model is what most get wrong.

    Attributes:
        name: of the argument.
        kind: the class that its annotation names, where it takes nothing else.
        fits: whether a value is of that sort.
        advice: where one comes from.
    """

    name: str
    kind: str
    fits: Callable[[Any], bool]
    advice: str

    def concerns(self, signature: inspect.Signature) -> bool:
        """Whether a function has that argument, and takes no name and nothing else there."""
        found = signature.parameters.get(self.name)
        told = "" if found is None else inspect.formatannotation(found.annotation)
        return self.kind in told and re.search(r"\b(str|Tensor)\b", told) is None

    def complaint(self, function: str, value: Any) -> str:
        """What to say of another value."""
        kind = type(value).__name__
        return (
            f"{self.name} of {function} is a {kind} and no {self.name}; give what secateur.load returns, {self.advice}"
        )


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_parameters") and hasattr(value, "forward")


_CHECKS = (
    _Check("model", "PreTrainedModel", _is_module, "its first part"),
    _Check(
        "tokenizer",
        "PreTrainedTokenizerBase",
        lambda value: value is None or (callable(value) and not _is_module(value)),  # some cuts need none
        "its second part",
    ),
)


def configured(kind: type[Config], config: Config | None, options: Mapping[str, Any]) -> Config:
    """A command's configuration with single options on top.

    Args:
        kind: the command's configuration model.
        config: a configuration, or None for the defaults.
        options: fields by name; they win over `config`.

    Raises:
        OptionError: an option is unknown or its value is refused, or `config` is something else.
    """
    if config is not None and not isinstance(config, BaseModel):
        raise OptionError(f"{reprlib.repr(config)} stands where a {kind.__name__} may; give options by name")
    given = config.model_dump(exclude_unset=True) if config is not None else {}
    for name in [name for name in options if name in LOADING and name in _unused.get(kind, ())]:
        logger.warning("%s= has no effect here: it is for secateur.load, and the model is loaded", name)
    try:
        return kind.model_validate({**given, **by_present_names(kind, options)})
    except ValidationError as error:
        problems = [_complaint(dict(problem), kind) for problem in error.errors()]
        raise OptionError("; ".join(problems)) from error
    except ValueError as error:
        raise OptionError(str(error)) from error


def _complaint(problem: dict[str, Any], kind: type[BaseModel]) -> str:
    location, message = problem["loc"], str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    name = str(location[0])
    if problem["type"] == "extra_forbidden":
        return no_option(name, [*kind.model_fields, *sorted(_arguments.get(kind, set()) - {"model", "tokenizer"})])
    if problem["type"] == "missing":
        about = str(kind.model_fields[name].description).rstrip(".")
        return worded(f"--{name.replace('_', '-')} is missing: {about[0].lower()}{about[1:]}")
    return f"{argument(name, problem['input'])}: {message[0].lower()}{message[1:]}{hint(problem)}"


def no_option(name: str, known: Collection[str]) -> str:
    """What to say about an option that there is not: `no option 'ratoi': did you mean 'ratio'?`"""
    near = difflib.get_close_matches(name, known, n=1)
    return f"no option '{name}'" + (f": did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}")


def no_number(value: object, form: str, example: str) -> object:
    """The value, but for two numbers with a colon between, which YAML takes for one in base 60: `ValueError`."""
    if isinstance(value, int):
        raise ValueError(f"YAML reads {form} without quotes as a number; write '{example}', in quotes")
    return value
