"""Templates of task files and chats: no number in one is so large that the text made of it fills the memory.

lm-eval renders a template in Jinja's sandbox, which bounds `range` and nothing else.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from secateur.files.time_limit import time_limit

RENDER_SECONDS = 10  # a text takes milliseconds
MOST_REPEATS = 100_000  # also the longest `range` of Jinja's sandbox
LARGEST_POWER = 64
LONGEST_RESULT = 2**20  # characters or items that `*` may give
TEMPLATE_KEYS = frozenset(
    {
        *("doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_decontamination_query"),
        *("description", "gen_prefix", "target_delimiter", "fewshot_delimiter"),
    }
)
# Filters, functions and methods that make a text as long, or a list as large, as a number says.
SIZED = frozenset(
    {
        *("batch", "center", "expandtabs", "indent", "lipsum", "ljust", "range", "rjust", "slice", "truncate"),
        *("wordwrap", "zfill"),
    }
)
FORMATS = frozenset({"format", "format_map"})
TOO_WIDE = f"it formats to a width of more than {MOST_REPEATS:,}"
WIDTH = re.compile(r"[%:.][^\d%]{0,4}(\d+)")


def template_complaint(config: Mapping[str, Any]) -> str | None:
    """What is too large in the templates of a task, such as "doc_to_text: …"; None if nothing is.

    A template that is none, by its syntax, is lm-eval's to refuse.
    """
    own = {key: value for key, value in config.items() if key in TEMPLATE_KEYS}
    few = config.get("fewshot_config")
    examples = (
        {f"fewshot_config.{key}": few[key] for key in TEMPLATE_KEYS & few.keys()} if isinstance(few, dict) else {}
    )
    for place, value in (own | examples).items():
        for text in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            found = too_large(text) if isinstance(text, str) else None
            if found is not None:
                return f"{place}: {found}"
    return None


def too_large(template: str) -> str | None:
    """What in a template repeats or widens something too often, one line; None if nothing does.

    The template is parsed and not rendered.
    """
    if "{" not in template:
        return None
    try:
        return next(_too_large(Environment().parse(template)), None)
    except (TemplateError, RecursionError, ValueError):
        return None


class _TimedTemplate(Template):
    """A template that is rendered within `RENDER_SECONDS` or not at all."""

    def render(self, *values: Any, **named: Any) -> str:
        """As Jinja's. Raises `SecurityError` where it takes longer."""
        try:
            with time_limit(RENDER_SECONDS, "to render it"):
                return super().render(*values, **named)
        except TimeoutError as error:
            raise SecurityError(str(error)) from error


class BoundedSandbox(SandboxedEnvironment):
    """Jinja's sandbox in which `*` and `**` give no more than a prompt may have, whatever a data set's numbers are.

    What does not end is ended.
    """

    template_class = _TimedTemplate
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            size = left.bit_length() * max(right, 0)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            size = left.bit_length() + right.bit_length()
        elif operator == "*":
            size = max(_size(left) * _times(right), _size(right) * _times(left))
        else:
            size = 0
        if size > LONGEST_RESULT:
            raise SecurityError(f"{operator} would give more than {LONGEST_RESULT:,} characters, items or bits")
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _times(value: Any) -> int:
    return max(value, 0) if isinstance(value, int) else 0


def _too_large(parsed: nodes.Template) -> Iterator[str]:
    for node in parsed.find_all((nodes.Mul, nodes.Pow, nodes.Mod, nodes.Filter, nodes.Call)):
        if isinstance(node, nodes.Mul) and _literal(node) > MOST_REPEATS:
            yield f"it multiplies by more than {MOST_REPEATS:,}"
        elif isinstance(node, nodes.Pow) and _literal(node.right) > LARGEST_POWER:
            yield f"it raises to a power above {LARGEST_POWER}"
        elif isinstance(node, nodes.Pow) and _literal(node) > MOST_REPEATS:
            yield f"it has a power that is more than {MOST_REPEATS:,}"
        elif isinstance(node, nodes.Mod) and _width(node.left) > MOST_REPEATS:
            yield TOO_WIDE
        elif isinstance(node, nodes.Filter | nodes.Call):
            yield from _too_large_call(node)


def _too_large_call(node: nodes.Filter | nodes.Call) -> Iterator[str]:
    called = node if isinstance(node, nodes.Filter) else node.node
    name = called.attr if isinstance(called, nodes.Getattr) else getattr(called, "name", "")
    largest = max(map(_literal, [*node.args, *(pair.value for pair in node.kwargs)]), default=1)
    if name in SIZED and largest > MOST_REPEATS:
        yield f"{name} has a number of more than {MOST_REPEATS:,}"
    if name in FORMATS and isinstance(called, nodes.Filter | nodes.Getattr):
        # A width may stand among the values as well: `*` and `{:{}}` take it from there.
        width = max(_width(called.node), largest if _takes_width(called.node) else 0)
        if width > MOST_REPEATS:
            yield TOO_WIDE


def _literal(node: nodes.Node | None) -> int:
    """How large an expression is by its literal integers alone; 1 where it has none.

    Jinja's own `as_const` would do the arithmetic, however large.
    """
    if isinstance(node, nodes.Const) and isinstance(node.value, int):
        return min(abs(node.value), MOST_REPEATS**2)
    if isinstance(node, nodes.Pos | nodes.Neg):
        return _literal(node.node)
    if isinstance(node, nodes.Mul | nodes.Add):
        left, right = _literal(node.left), _literal(node.right)
        return min(left * right if isinstance(node, nodes.Mul) else left + right, MOST_REPEATS**2)
    if isinstance(node, nodes.Pow):
        return min(_literal(node.left) ** min(_literal(node.right), LARGEST_POWER), MOST_REPEATS**2)
    return 1


def _width(node: nodes.Node | None) -> int:
    """The largest width or precision in a text that formats."""
    if not isinstance(node, nodes.Const) or not isinstance(node.value, str):
        return 0
    digits = [found.lstrip("0") or "0" for found in WIDTH.findall(node.value)]
    return max((MOST_REPEATS**2 if len(number) > 10 else int(number) for number in digits), default=0)


def _takes_width(node: nodes.Node | None) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str) and ("*" in node.value or ":{" in node.value)
