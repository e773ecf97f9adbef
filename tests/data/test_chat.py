"""Conversations through chat templates, and which tokens have a loss."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trl_masks
from transformers import PreTrainedTokenizerFast

from secateur.data import IGNORED, Conversation, Example, check_texts, load_corpus, token_windows, tokenize_examples
from secateur.data.chat import template_of
from secateur.data.conversations import conversation_of
from secateur.data.options import DataOptions
from secateur.errors import DataError, InputError

pytestmark = pytest.mark.usefixtures("private_cache")
REFERENCE = json.loads((Path(__file__).parent / "trl_masks.json").read_text(encoding="utf-8"))
USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
THINKING = [
    USER,
    {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"},
    {"role": "user", "content": "and 3+3?"},
    {"role": "assistant", "content": "<think>\nadd again\n</think>\n\n6"},
]


@pytest.fixture
def chatting(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """SmolLM2's template on the tiny tokenizer."""
    return with_template(tiny_tokenizer, trl_masks.template("smollm2"))


def with_template(tokenizer: PreTrainedTokenizerFast, template: str | dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer


def trained_texts(tokenizer: PreTrainedTokenizerFast, messages: list[Any], **more: Any) -> list[str]:
    """The runs of text that have a loss."""
    conversation = conversation_of(messages, more.pop("tools", None), "a row", **more)
    text, spans = template_of(tokenizer, "model").text_and_spans(conversation)
    return [text[start:end] for start, end in spans]


def _with_and_without_marks() -> Iterator[tuple[Any, ...]]:
    """TRL's cases by the family's own template, and by one with marks, where both render the same text."""
    for case, expected in zip(trl_masks.CASES, REFERENCE["masks"], strict=True):
        name, *_, kind = case
        if kind != "marked":
            yield name, case, expected
        if (Path(trl_masks.HERE) / "chat_templates" / f"{name}_training.jinja").is_file():
            yield f"{name}_training", case, expected


@pytest.mark.parametrize(("template", "case", "expected"), [*_with_and_without_marks()])
def test_the_same_tokens_have_a_loss_as_in_trl(
    tiny_tokenizer: PreTrainedTokenizerFast, template: str, case: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    _, messages, tools, kind = case
    tokenizer = with_template(tiny_tokenizer, trl_masks.template(template))
    prompt = messages[:-1] if kind == "last" else messages
    answers = messages[-1:] if kind == "last" else None
    conversation = conversation_of(prompt, tools, "a row", answers=answers)
    (sequence,) = tokenize_examples(tokenizer, [conversation], 10_000, chat_template="model")
    labels = sequence["labels"]
    edges = [place for place in range(len(labels) + 1) if trl_masks.is_edge(labels, place)]
    assert len(labels) == expected["tokens"]
    assert [list(run) for run in zip(edges[::2], edges[1::2], strict=True)] == expected["trained"]
    trained = zip(sequence["input_ids"], labels, strict=True)
    assert all(token == label for token, label in trained if label != IGNORED)


def test_thinking_that_a_template_drops_later_is_not_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(tiny_tokenizer, trl_masks.template("qwen3"))
    assert trained_texts(tokenizer, THINKING) == [
        "4<|im_end|>\n",
        "<think>\nadd again\n</think>\n\n6<|im_end|>\n",
    ]
    # Without thinking the template writes an empty one, in the last turn only.
    assert trained_texts(tokenizer, [USER, REPLY, USER, REPLY]) == [
        "4<|im_end|>\n",
        "<think>\n\n</think>\n\n4<|im_end|>\n",
    ]


def test_tool_calls_before_dropped_thinking(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(tiny_tokenizer, trl_masks.template("qwen3"))
    messages = [trl_masks.QUESTION, trl_masks.CALL, trl_masks.RESULT, trl_masks.THOUGHT, USER, REPLY]
    call, thought, last = trained_texts(tokenizer, messages, tools=[trl_masks.TOOL])
    assert call == '<tool_call>\n{"name": "multiply", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>\n'
    assert (thought, last) == ("Seven.<|im_end|>\n", "<think>\n\n</think>\n\n4<|im_end|>\n")


def test_a_default_system_turn_has_no_loss(chatting: PreTrainedTokenizerFast) -> None:
    text = template_of(chatting, None).text(conversation_of([USER, REPLY], None, "a row"))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert trained_texts(chatting, [USER, REPLY, USER, REPLY]) == ["4<|im_end|>\n"] * 2


def test_only_the_completion_of_a_prompt_is_trained_on(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("llama3", "llama3_training"):
        tokenizer = with_template(tiny_tokenizer, trl_masks.template(name))
        prompt, answers = [USER, REPLY, USER], [{"role": "assistant", "content": "four"}]
        assert trained_texts(tokenizer, prompt, answers=answers) == ["four<|eot_id|>"]


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (
            "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}",
            [USER, REPLY, USER, REPLY],
            "what stands before message 2 otherwise in the whole conversation than alone",
        ),
        ("gemma", [{"role": "system", "content": "x"}, USER, REPLY], "refuses it (System role not supported)"),
        ("{{ messages[0].nothing.more }}", [USER, REPLY], "refuses it"),
        ("", [USER, REPLY], "writes nothing of what the assistant says"),
        ("{% generation %}{% endgeneration %}", [USER, REPLY], "marks nothing of what the assistant says"),
        (
            "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ messages[1].content }}",
            [USER, REPLY],
            "marks what the user says as the assistant's",
        ),
    ],
)
def test_what_a_template_cannot_do_is_one_line(
    tiny_tokenizer: PreTrainedTokenizerFast, template: str, messages: list[Any], said: str
) -> None:
    template = trl_masks.template("gemma") if template == "gemma" else template
    tokenizer = with_template(tiny_tokenizer, template)
    conversation = conversation_of(messages, None, "chat.jsonl, line 3")
    with pytest.raises(DataError, match=r"^chat.jsonl, line 3: the model's chat template ") as caught:
        tokenize_examples(tokenizer, [conversation], 500, chat_template=None)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_that_would_fill_the_memory_is_not_rendered(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = with_template(tiny_tokenizer, "{{ 'x' * 1000000000 }}")
    with pytest.raises(InputError, match="it multiplies by more than"):
        tokenize_examples(tokenizer, [conversation_of([USER, REPLY], None, "a row")], 500, chat_template=None)
    with pytest.raises(InputError, match="2,000,000 characters, more than 1,048,576"):
        template_of(with_template(tiny_tokenizer, "x" * 2_000_000), None)


def test_a_mark_in_a_comment_is_none(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = "{# by {% generation %} #}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer = with_template(tiny_tokenizer, template + "{% if add_generation_prompt %}<assistant>{% endif %}")
    assert trained_texts(tokenizer, [USER, REPLY]) == ["4"]


def test_which_template(
    tiny_tokenizer: PreTrainedTokenizerFast, chatting: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    example = Example("2+2?", "", "4")
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}")
    assert (
        template_of(chatting, None).text(example).endswith("user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n")
    )
    assert template_of(chatting, str(own)).text(example) == "user: 2+2?;assistant: 4;"
    for tokenizer, wanted in ((chatting, "alpaca"), (tiny_tokenizer, None)):
        assert template_of(tokenizer, wanted).text(example).endswith("### Instruction:\n2+2?\n\n### Response:\n4")
    with pytest.raises(InputError, match="the model has no chat template"):
        template_of(tiny_tokenizer, "model")
    for look in (
        lambda: template_of(tiny_tokenizer, "nowhere.jinja"),
        lambda: check_texts("pydocs", options=DataOptions(chat_template="nowhere.jinja")),
    ):
        with pytest.raises(InputError, match="none of model, alpaca, and there is no such file"):
            look()


def test_a_conversation_in_the_alpaca_form(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    single = conversation_of([USER, REPLY], None, "a row")
    template = template_of(tiny_tokenizer, "alpaca")
    assert template.text(single) == template.text(Example("2+2?", "", "4")) + "<eos>"
    for conversation in (single, conversation_of([USER, REPLY, USER, REPLY], None, "a row")):
        text, spans = template.text_and_spans(conversation)
        assert [text[start:end] for start, end in spans] == ["4<eos>"] * (len(conversation.messages) // 2)
    asked, alpaca = (
        tokenize_examples(tiny_tokenizer, [item], 500, chat_template="alpaca")
        for item in (single, Example("2+2?", "", "4"))
    )
    assert asked == alpaca
    with pytest.raises(DataError, match="has no tools"):
        template.text(conversation_of([USER, trl_masks.CALL], None, "a row"))


def test_a_tokenizer_that_tells_no_places(
    chatting: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conversations = [conversation_of([USER, REPLY, USER, REPLY], None, "a row")]
    by_places = tokenize_examples(chatting, conversations, 500, chat_template=None)
    monkeypatch.setattr(type(chatting), "is_fast", property(lambda self: False))
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "other"))
    assert tokenize_examples(chatting, conversations, 500, chat_template=None) == by_places


def test_windows_hold_whole_conversations_as_the_template_writes_them(
    chatting: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    chat = tmp_path / "chat.jsonl"
    rows = [{"messages": [USER, {"role": "assistant", "content": f"number {n}"}]} for n in range(4)]
    chat.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = template_of(chatting, None)
    whole = "".join(template.text(conversation_of(row["messages"], None, "a row")) for row in rows)
    windows = token_windows(chatting, load_corpus(str(chat)), 50)
    assert chatting.decode(windows.flatten().tolist()) == whole[: windows.numel()]
    alpaca = load_corpus(str(chat), options=DataOptions(chat_template="alpaca"))
    assert chatting.decode(token_windows(chatting, alpaca, 50)[0].tolist()).startswith("Below is an instruction")


def test_content_in_parts_and_arguments_as_text() -> None:
    parts = [{"type": "text", "text": "2"}, {"type": "text", "text": "+2?"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}
    found = conversation_of([{"role": "user", "content": parts, "name": None}, call], "[]", "a row")
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    assert found == Conversation((USER, called))


def test_of_several_templates_one_is_chosen_by_name(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    row = conversation_of([USER, REPLY], None, "a row")
    two = with_template(tiny_tokenizer, {"default": "D", "rag": "R"})
    assert [template_of(two, name).text(row) for name in (None, "model", "rag")] == ["D", "D", "R"]
    with pytest.raises(InputError, match="'rug': none of model, alpaca, default, rag, and there is no such file"):
        template_of(two, "rug")
    others = with_template(tiny_tokenizer, {"rag": "R", "tools": "T"})
    message = r"^the model has chat templates named rag, tools and none named default; choose one, chat_template=.rag."
    for wanted in (None, "model"):
        with pytest.raises(InputError, match=message):
            template_of(others, wanted)
    assert template_of(others, "tools").text(row) == "T"
    check_texts("pydocs", options=DataOptions(chat_template="tools"))  # the model will say whether it has it


def test_a_template_that_does_not_end_is_ended(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.data.chat.RENDER_SECONDS", 0.05)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer = with_template(tiny_tokenizer, loops)
    with pytest.raises(DataError, match=r"^a row: .* refuses it \(to render it takes more than 0.05 seconds\)$"):
        template_of(tokenizer, None).text(conversation_of([USER, REPLY], None, "a row"))
