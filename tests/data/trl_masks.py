"""Which tokens TRL trains on, for `test_chat.py`: writes `trl_masks.json`.

    python -m venv ENV && ENV/bin/pip install trl==1.16.0 transformers==5.24.0 torch
    PYTHONPATH=tests ENV/bin/python tests/data/trl_masks.py

TRL has training templates of its own for some families, with the assistant's turns marked (`assistant_only_loss`); for
the others the last turn is a completion behind its prompt. `chat_templates` holds the templates: those of Llama 3,
Gemma and Qwen3 with TRL's training templates as TRL 1.16.0 ships them (Apache 2.0), SmolLM2's own, and Mistral's of
Mistral-7B-Instruct-v0.1.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUESTION, REPLY = {"role": "user", "content": "Name a prime."}, {"role": "assistant", "content": "Seven is one."}
MORE, LAST = {"role": "user", "content": "Another?\n"}, {"role": "assistant", "content": " Eleven, été. "}
SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = {"role": "assistant", "content": "<think>\n2 + 5\n</think>\n\nSeven."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "multiply", "arguments": {"a": 2, "b": 3}}}],
}
RESULT = {"role": "tool", "name": "multiply", "content": "6"}
TOOL = {
    "type": "function",
    "function": {"name": "multiply", "description": "Multiply.", "parameters": {"type": "object", "properties": {}}},
}

# The template, the messages, the tools, and what TRL looks at: all turns of the assistant, or the last one.
CASES: list[tuple[str, list[dict[str, Any]], list[Any] | None, str]] = [
    ("llama3", [QUESTION, REPLY], None, "turns"),
    ("llama3", [SYSTEM, QUESTION, REPLY, MORE, LAST], None, "turns"),
    ("gemma", [QUESTION, REPLY, MORE, LAST], None, "turns"),
    ("qwen3", [SYSTEM, QUESTION, THOUGHT], None, "turns"),
    ("qwen3", [QUESTION, THOUGHT, MORE, LAST], None, "marked"),
    ("qwen3", [QUESTION, CALL, RESULT, THOUGHT], [TOOL], "marked"),
    ("smollm2", [QUESTION, REPLY, MORE, LAST], None, "last"),
    ("smollm2", [SYSTEM, QUESTION, REPLY], None, "last"),
    ("mistral", [QUESTION, REPLY, MORE, LAST], None, "last"),
]


def template(name: str) -> str:
    return (HERE / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def main() -> None:
    import trl
    from datasets import Dataset

    from tiny import make_tiny_model, make_tiny_tokenizer

    found = []
    for name, messages, tools, kind in CASES:
        tokenizer = make_tiny_tokenizer()
        tokenizer.chat_template = template(f"{name}_training" if kind == "marked" else name)
        row: dict[str, Any] = {"messages": messages}
        if kind == "last":
            row = {"prompt": messages[:-1], "completion": messages[-1:]}
        if tools:
            row["tools"] = tools
        with tempfile.TemporaryDirectory() as directory:
            arguments = trl.SFTConfig(
                directory, assistant_only_loss=kind != "last", max_length=None, use_cpu=True, report_to="none"
            )
            data = Dataset.from_list([row])
            trainer = trl.SFTTrainer(make_tiny_model(), arguments, train_dataset=data, processing_class=tokenizer)
            (tokens,) = trainer.train_dataset
            batch = trainer.data_collator([tokens])
        labels = batch["labels"][0].tolist()
        edges = [place for place in range(len(labels) + 1) if is_edge(labels, place)]
        found.append({"tokens": len(labels), "trained": list(zip(edges[::2], edges[1::2], strict=True))})
    content = {"trl": trl.__version__, "masks": found}
    (HERE / "trl_masks.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def is_edge(labels: list[int], place: int) -> bool:
    before = place > 0 and labels[place - 1] != -100
    return before != (place < len(labels) and labels[place] != -100)


if __name__ == "__main__":
    main()
