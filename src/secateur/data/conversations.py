"""Conversations out of rows: `messages` (role and content), or ShareGPT's `conversations` (from and value)."""

import json
from collections.abc import Mapping
from typing import Any, Final

from secateur.data.corpus import Conversation
from secateur.errors import DataError

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
# ShareGPT's names of them; the others' own are understood as well.
FROM: Final = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool"}
ASSISTANT: Final = "assistant"


def conversation_of(
    messages: Any, tools: Any, where: str, *, column: str = "messages", answers: Any = None
) -> Conversation:
    """A conversation of a row.

    Args:
        messages: a list of objects with `role` and `content`, or with `from` and `value`.
        tools: a list of JSON schemas, one JSON text of such a list, or None.
        where: of the row, `chat.jsonl, line 3`.
        column: what holds the messages, for messages.
        answers: messages that follow, the only ones whose assistant turns are trained on.

    Raises:
        DataError: there is no message or no assistant's, or one has no role, an unknown one, or no text.
    """
    prompt = _messages(messages, where, column)
    completion = [] if answers is None else _messages(answers, where, "completion")
    found = (*prompt, *completion)
    answers_from = 0 if answers is None else len(prompt)
    if not any(message["role"] == ASSISTANT for message in found[answers_from:]):
        raise DataError(f"{where}: the conversation has no turn of the assistant, so there is nothing to learn from it")
    conversation = Conversation(found, _tools(tools, where), answers_from, where)
    try:
        "".join(conversation.strings).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {column!r} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: {column!r} holds what is no JSON ({error})") from error
    return conversation


def _messages(messages: Any, where: str, column: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list | tuple):
        problem = "is missing" if messages is None else f"is a {type(messages).__name__}"
        raise DataError(f"{where}: {column!r} {problem}; it must be a list of messages in every row")
    if not messages:
        raise DataError(f"{where}: the conversation in {column!r} is empty")
    return [_message(message, f"{where}: message {number}") for number, message in enumerate(messages, start=1)]


def _message(message: Any, where: str) -> dict[str, Any]:
    """A message with its role and its content as one text, without what is None: other rows' columns in a table."""
    if not isinstance(message, Mapping):
        raise DataError(f"{where} is a {type(message).__name__}; it must be an object with 'role' and 'content'")
    given = {key: _without_none(value) for key, value in message.items() if value is not None}
    share_gpt = "role" not in given and "from" in given
    role = given.pop("from" if share_gpt else "role", None)
    if role is None:
        raise DataError(f"{where} has no 'role' (or ShareGPT's 'from')")
    known = {**{own: own for own in ROLES}, **FROM} if share_gpt else {own: own for own in ROLES}
    if not isinstance(role, str) or role not in known:
        names = list(FROM) if share_gpt else ROLES
        raise DataError(f"{where} has the unknown role {str(role)[:40]!r}; known are {', '.join(names)}")
    content = given.pop("value" if share_gpt else "content", None)
    calls = given.pop("tool_calls", None)
    if content is None and not calls:
        raise DataError(f"{where} ({role}) has no {'value' if share_gpt else 'content'!r}")
    text = "" if content is None else _text(content, where)
    return {
        "role": known[role],
        "content": text,
        **given,
        **({"tool_calls": _calls(calls, where)} if calls else {}),
    }


def _text(content: Any, where: str) -> str:
    """A message's content: text, or a list of typed parts, which are joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise DataError(f"{where}: its content is a {type(content).__name__}; it must be text, or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(text, str):
            raise DataError(f"{where} has a part of type {str(kind)[:40]!r}; only parts of text can be used")
        texts.append(text)
    return "".join(texts)


def _calls(calls: Any, where: str) -> list[Any]:
    """Tool calls, whose arguments are objects as templates want them: other libraries write them as JSON text."""
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise DataError(f"{where}: its 'tool_calls' are no list of objects")
    return [_call(call) for call in calls]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    inner = call.get("function")
    if isinstance(inner, Mapping):
        return {**call, "function": _call(inner)}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            return {**call, "arguments": parsed}
    return dict(call)


def _tools(tools: Any, where: str) -> tuple[Any, ...] | None:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: 'tools' is text and no JSON") from error
    if not tools:
        return None
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"{where}: 'tools' is no list of JSON schemas")
    return tuple(_without_none(tool) for tool in tools)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value
