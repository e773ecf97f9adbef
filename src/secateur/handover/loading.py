"""How a model is loaded, for each engine that opens it: the code that stands in its card."""

import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from secateur.errors import ModelError
from secateur.exporting.engines import Opening, opening_in
from secateur.exporting.nemotron_nas import MODEL_TYPE as NEMOTRON_NAS
from secateur.handover.plain import code

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Way:
    """One engine's way.

    Attributes:
        engine: its name.
        language: of the code.
        code: to run.
        note: a sentence on it, or nothing.
    """

    engine: str
    language: str
    code: str
    note: str = ""


def opening_at(directory: Path) -> Opening | None:
    """Where the model in a directory opens; None for an adapter, or where it cannot be said."""
    file = directory / "config.json"
    if not file.is_file():
        return None
    if json.loads(file.read_text(encoding="utf-8")).get("model_type") == NEMOTRON_NAS:
        line = "Opens in vLLM, SGLang and mlx-lm, each with trust_remote_code"
        return Opening(line, ("vLLM", "SGLang", "mlx-lm"), remote_code=True)
    try:
        return opening_in(directory)
    except ModelError:
        return None


def ways(directory: Path, place: str, opening: Opening | None, base: str) -> list[Way]:
    """The code that loads a model.

    Args:
        directory: of the model or the adapter.
        place: what the code calls it: its directory's name, or its id on the hub.
        opening: where it opens.
        base: what an adapter's model is called.
    """
    if (directory / ADAPTER).is_file():
        return [_with_peft(place, base)]
    if opening is None:
        return []
    makers = {"Transformers": _transformers, "vLLM": _vllm, "SGLang": _sglang, "mlx-lm": _mlx}
    found = [makers[engine](place, opening) for engine in (*opening.engines, *opening.by_option) if engine in makers]
    return [*found, *([_llama_cpp(place)] if "llama.cpp" in opening.exports else [])]


def _transformers(place: str, opening: Opening) -> Way:
    trusting, note = "", ""
    if opening.remote_code:
        trusting = ", trust_remote_code=True"
        note = "It runs `modeling_secateur.py`, which stands beside the weights; the tokenizer needs no code."
    tokenizer = ", trust_remote_code=False" if opening.remote_code else ""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({_text(place)}{tokenizer})",
        f"model = AutoModelForCausalLM.from_pretrained({_text(place)}{trusting})",
    ]
    return Way("Transformers", "python", "\n".join(lines), note)


def _vllm(place: str, opening: Opening) -> Way:
    option = "--model-impl transformers" if "vLLM" in opening.by_option else ""
    return Way("vLLM", "sh", _joined("vllm serve", quote(place), option, _trusting(opening)))


def _sglang(place: str, opening: Opening) -> Way:
    return Way("SGLang", "sh", _joined("python -m sglang.launch_server --model-path", quote(place), _trusting(opening)))


def _mlx(place: str, opening: Opening) -> Way:
    trusting = "--trust-remote-code" if "mlx-lm" in opening.by_option else _trusting(opening)
    return Way(
        "mlx-lm", "sh", _joined("mlx_lm.generate --model", quote(place), trusting, '--prompt "Once upon a time"')
    )


def _llama_cpp(place: str) -> Way:
    lines = [f"secateur export {quote(place)} -o model.gguf", 'llama-cli -m model.gguf -p "Once upon a time"']
    return Way("llama.cpp", "sh", "\n".join(lines), "By an export.")


def _with_peft(place: str, base: str) -> Way:
    lines = [
        "import secateur",
        "from peft import PeftModel",
        "",
        f"model, tokenizer = secateur.load({_text(base)})",
        f"model = PeftModel.from_pretrained(model, {_text(place)})",
    ]
    merge = f"secateur merge {quote(base)} --adapter {quote(place)} -o merged"
    note = f"It is an adapter for {code(base)}; {code(merge)} makes one model of both."
    return Way("PEFT", "python", "\n".join(lines), note)


def _text(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _trusting(opening: Opening) -> str:
    return "--trust-remote-code" if opening.remote_code else ""


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)
