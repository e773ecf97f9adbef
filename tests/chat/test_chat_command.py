"""`secateur chat`: history, templates, two models, a pipe, a terminal."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from secateur.chat import ChatConfig, Conversation
from secateur.chat.terminal import Terminal, Writer
from secateur.cli.main import app
from secateur.console import printable
from secateur.errors import InputError, ModelError
from tiny import make_tiny_model, make_tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[answer]{% endif %}"
)
QUICK = ["--max-new-tokens", 4, "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and the same with a chat template."""
    root = tmp_path_factory.mktemp("models")
    for name in ("base", "chat"):
        make_tiny_model().save_pretrained(root / name)
        tokenizer = make_tiny_tokenizer()
        tokenizer.chat_template = TEMPLATE if name == "chat" else None
        tokenizer.save_pretrained(root / name)
    return root


def conversation(template: str | dict[str, str] | None = TEMPLATE, **options: Any) -> Conversation:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return Conversation(
        "tiny", make_tiny_model(max_position_embeddings=256), tokenizer, ChatConfig(**{"max_new_tokens": 4, **options})
    )


def secateur(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def read_of(talk: Conversation) -> str:
    """The text that the model would be given."""
    return str(talk.tokenizer.decode(talk._encoded()[0]))


def test_the_history_goes_through_the_template() -> None:
    talk = conversation(system="Be short.")
    pieces: list[str] = []
    answer = talk.reply("Hello", pieces.append)
    assert "".join(pieces) == answer.text and 1 <= answer.tokens <= 4 and answer.tokens_per_second > 0
    talk.messages.append({"role": "user", "content": "More"})
    assert read_of(talk) == f"[system]Be short.[user]Hello[assistant]{answer.text}[user]More[answer]"
    talk.reset()
    assert [message["role"] for message in talk.messages] == ["system"]


def test_without_a_template_the_text_goes_on() -> None:
    talk = conversation(None)
    answer = talk.reply("Once upon")
    talk.messages.append({"role": "user", "content": "And then"})
    assert read_of(talk) == f"Once upon{answer.text}\nAnd then"
    with pytest.raises(InputError, match="no chat template, which --system needs"):
        conversation(None, system="Be short.")


def test_greedy_answers_are_the_models_own() -> None:
    talk = conversation(max_new_tokens=6)
    prompt = talk.tokenizer("[user]Hello[answer]", return_tensors="pt").input_ids
    expected = talk.model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
    assert talk.reply("Hello").text == talk.tokenizer.decode(expected, skip_special_tokens=True)


def test_what_is_drawn_follows_the_seed() -> None:
    def drawn(seed: int) -> str:
        return conversation(temperature=5.0, max_new_tokens=12, seed=seed).reply("Hello").text

    assert drawn(0) == drawn(0) != drawn(1)


def test_old_exchanges_are_forgotten_where_the_text_is_too_long() -> None:
    talk = conversation(system="S", max_new_tokens=8)
    for number in range(4):
        talk.reply(f"{number} " + "word " * 18)
    said = [message["content"][0] for message in talk.messages if message["role"] == "user"]
    assert said[0] > "0" and said[-1] == "3" and talk.messages[0]["role"] == "system"
    before = list(talk.messages)
    with pytest.raises(InputError, match="more than the 256 that tiny takes"):
        talk.reply("word " * 100)
    assert talk.messages[-1] == before[-1], "what cannot be said is not said"


def test_an_answer_can_be_stopped() -> None:
    def stop(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 1:
            raise KeyboardInterrupt

    shown: list[str] = []
    talk = conversation(None, max_new_tokens=50)
    answer = talk.reply("Once", stop)
    assert answer.stopped and answer.tokens < 50
    assert talk.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system') }}",
        "{{ messages.nothing.at_all }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_fails_is_one_line(template: str) -> None:
    with pytest.raises(ModelError, match="the chat template of tiny does not take this"):
        conversation(template).reply("Hello")


def test_a_template_that_writes_nothing_is_one_line() -> None:
    with pytest.raises(ModelError, match="the chat template of tiny writes nothing"):
        conversation("{# #}").reply("Hello")


def test_of_several_templates_one_is_chosen() -> None:
    both = {"rag": "R{{ messages[-1].content }}", "tools": "T{{ messages[-1].content }}"}
    with pytest.raises(InputError, match=r"^tiny: the model has chat templates named rag, tools and none"):
        conversation(both)
    talk = conversation(both, chat_template="tools")
    talk.messages.append({"role": "user", "content": "Hello"})
    assert read_of(talk) == "THello"


def test_a_model_without_a_template_can_be_given_one() -> None:
    talk = conversation(None, chat_template="alpaca")
    talk.messages.append({"role": "user", "content": "Hello"})
    assert read_of(talk).endswith("### Instruction:\nHello\n\n### Response:\n")


def test_an_answer_ends_where_the_model_does() -> None:
    talk = conversation(max_new_tokens=10**9)
    assert talk.reply("a" * 100).tokens <= 256 - 100


def test_what_is_not_utf8_is_no_reason_to_end(tiny: Path) -> None:
    arguments = ["chat", str(tiny / "chat"), *map(str, QUICK)]
    result = CliRunner().invoke(app, arguments, input=b"\xff\xfe\nHello\n")
    assert result.exit_code == 0 and result.stderr.count("tokens/s") == 2
    with pytest.raises(InputError, match="bytes that are not UTF-8"):
        conversation().reply("caf\udce9")


def test_a_template_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^tiny: the model's chat template is not rendered: it multiplies by more than"
    ):
        conversation("{{ 'x' * 100000000 }}")


def test_lines_of_a_pipe_are_answered_one_by_one(tiny: Path) -> None:
    result = secateur("chat", tiny / "base", *QUICK, stdin="Once\n\n/reset\n/what\nOnce\n/exit\nnever\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("tokens/s") == 2 and "Forgotten." in result.stderr
    assert "base has no chat template: it continues the text" in result.stderr
    assert "/reset forgets" in result.stderr, "an unknown word after / is answered with what there is"
    first, *_, last = result.stdout.splitlines()
    assert first == last and ">" not in first


def test_one_prompt_is_one_answer(tiny: Path) -> None:
    result = secateur("chat", tiny / "chat", "--prompt", "Hello", *QUICK, "--system", "Be short.")
    assert result.exit_code == 0 and result.stdout.strip() and "tokens/s" not in result.stdout


def test_two_models_answer_the_same(tiny: Path) -> None:
    result = secateur("chat", tiny / "chat", "--compare", tiny / "base", "--prompt", "Hello", *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stdout.index("chat:") < result.stdout.index("base:")
    result = secateur("chat", tiny / "chat", "--compare", tiny / "none", "--prompt", "Hello", *QUICK)
    assert result.exit_code == 1 and "does not exist" in result.stderr


@pytest.mark.parametrize(("width", "beside"), [(120, True), (80, False)])
def test_two_models_stand_side_by_side_where_there_is_room(width: int, beside: bool) -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False)
    talks = [conversation(), conversation(None)]
    talks[0].name, talks[1].name = "first", "second"
    Terminal(talks, shown, Console(file=io.StringIO())).answer("Hello")
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any("first" in line and "second" in line for line in lines) is beside


def test_lines_break_between_words_in_a_terminal() -> None:
    out = io.StringIO()
    writer = Writer(Console(file=out, force_terminal=True, width=10))
    for piece in ("one two ", "three fo", "ur\nfive six", " seven"):
        writer.write(piece)
    writer.end()
    assert out.getvalue() == "one two\nthree four\nfive six\nseven\n"


def test_a_model_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\td\ne") == "a\ufffd[2Jb\ufffdc\td\ne"
