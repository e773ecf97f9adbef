"""What a researcher's editor sees of the public functions: options in signatures, docstrings and for type checkers."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

import secateur
import typed_options
from secateur.errors import InputError
from secateur.models.options import LOADING

UNREAD: Any = torch.nn.Identity()  # options are checked before the model is looked at
TAKE_OPTIONS = ["prune", "sparsify", "search", "recover", "evaluate", "diagnose", "export", "plan"]
# Options of functions without a config, and how many of their arguments stand before the star.
OTHERS = {"merge": {"zeros", "keep_zeros", "allow_dense"}, "compare": {"title"}, "run": set(), "sweep": set()}


def function(name: str) -> Any:
    return getattr(secateur.attention, name.removeprefix("attention.")) if "." in name else getattr(secateur, name)


@pytest.mark.parametrize("module", typed_options.FILES)
def test_type_checkers_see_the_options_of_the_configs(module: str) -> None:
    written = typed_options.file_of(module).read_text(encoding="utf-8")
    assert written == typed_options.source_of(module), "make options writes it anew"


@pytest.mark.parametrize(
    "name", [*TAKE_OPTIONS, *(f"attention.{each}" for each in ("tune", "apply", "compare", "generate"))]
)
def test_signature_and_docstring_list_each_option(name: str) -> None:
    called = function(name)
    config: type[BaseModel] = called.options_config
    parameters = inspect.signature(called).parameters
    options = [each for each in config.model_fields if each in parameters]
    assert set(config.model_fields) - set(options) <= LOADING | {"adapter", "semi_structured", "zeros"}
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for option in called.options_shown:
        field = config.model_fields[option]
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert field.is_required() or parameters[option].default == field.get_default(call_default_factory=True)
        assert f"    {option}: " in called.__doc__
    assert "--" not in called.__doc__.partition("\nOptions:")[2], "options are arguments here, no flags"


@pytest.mark.parametrize("name", OTHERS)
def test_functions_without_a_config_take_keywords(name: str) -> None:
    parameters = inspect.signature(function(name)).parameters
    keywords = {each for each, found in parameters.items() if found.kind is inspect.Parameter.KEYWORD_ONLY}
    assert OTHERS[name] <= keywords and not any(
        found.kind is inspect.Parameter.VAR_KEYWORD for found in parameters.values()
    )


@pytest.mark.parametrize("name", ["prune", "sparsify", "search", "evaluate", "diagnose", "attention.tune"])
def test_a_model_and_a_tokenizer_come_first(name: str) -> None:
    first, second, *_ = inspect.signature(function(name)).parameters
    assert (first, second) == ("model", "tokenizer")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: secateur.prune(UNREAD, None, ratoi=0.2), "no option 'ratoi': did you mean 'ratio'?"),
        (lambda: secateur.recover(UNREAD, None, calbacks=[]), "no option 'calbacks': did you mean 'callbacks'?"),
        (
            lambda: secateur.prune(UNREAD, None, ratio=2),
            "ratio=2: input should be less than 1; 2 percent are 0.02 or 2%",
        ),
        (
            lambda: secateur.plan("smollm2-135m"),
            "devices= is missing: how many of which device: 8xH100, 'A100 40GB', 2x4090, 'M4 Max 64GB', cpu, or a GPU "
            "by its memory, 24GB",
        ),
        (
            lambda: secateur.prune(UNREAD, None, plan="p.json", ratio=0.1, freeze=[1]),
            "the plan decides that; leave out ratio=, freeze=, or the plan",
        ),
    ],
)
def test_what_is_wrong_is_said_in_arguments(call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_a_text_in_the_place_of_a_config_is_told() -> None:
    with pytest.raises(InputError, match=r"stands where a GenerateConfig may|no tokenizer"):
        secateur.attention.generate(UNREAD, UNREAD, "hello")  # type: ignore[arg-type]


def test_options_of_loading_are_told_to_be_without_effect(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError):
        secateur.prune(UNREAD, None, device="cuda", ratio=2)
    assert caplog.messages == ["device= has no effect here: it is for secateur.load, and the model is loaded"]


def test_the_top_level_offers_all() -> None:
    assert all(hasattr(secateur, name) for name in secateur.__all__)
    assert secateur.__version__.count(".") >= 2
    tree = ast.parse(Path(secateur.__file__).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    names = {
        alias.asname or alias.name for line in typed.body if isinstance(line, ast.ImportFrom) for alias in line.names
    }
    assert names | {"__version__"} == set(secateur.__all__)
