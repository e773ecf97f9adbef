"""What to do after each command: load → measure → cut → recover → measure → ship."""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secateur.console import command_text, flag, stderr

CAN = "you can: "
CUT_RECORDS = ("pruning_plan.json", "sparsity.json")
TRAINING_RECORD = "recovery.json"
ADAPTER = "adapter_config.json"
ROWS = ("text_column", "prompt_column", "input_column", "answer_column", "chat_template")  # how rows are read

Values = Mapping[str, Any]  # what the command was given, by parameter: `model`, `output`, `config` …


def tell_next(command: str, values: Values) -> None:
    """Print on standard error what to do after a command that has done its work."""
    following = next_command(command, values)
    if following is not None:
        stderr.print(f"next: {following}", markup=False, highlight=False, soft_wrap=True)


def next_command(command: str, values: Values) -> str | None:
    """The command that follows on one that has done its work, ready for a shell.

    Words in capitals are for the user to fill in.

    Args:
        command: its name, `prune` or `attention tune`.
        values: what it was given.
    """
    following = ROAD.get(command)
    return following(values) if following else None


def _after_evaluate(values: Values) -> str:
    model, config = values["models"][-1], values["config"]
    if config.adapter is not None:
        return _merge(model, config.adapter, _beside(config.adapter, "merged"))
    if Path(model).suffix == ".gguf" or _is_rounded(model):
        return _command("chat", model)
    if (Path(model) / TRAINING_RECORD).is_file():
        return _ship(model)
    if any((Path(model) / name).is_file() for name in CUT_RECORDS):
        teacher = ["--teacher", values["models"][0]] if len(values["models"]) > 1 else []
        return _command("recover", model, "-o", _beside(model, "recovered"), *teacher)
    return _command("prune", model, "-o", "out/pruned")


def _after_cut(values: Values) -> str:
    output, config = values["output"], values["config"]
    data = [] if config.data == "pydocs" else ["--data", config.data]
    where = _beside(output, "recovered")
    return _command("recover", output, "-o", where, *data, *_rows(config), "--teacher", values["model"])


def _after_search(values: Values) -> str:
    from secateur.pruning import PruneConfig
    from secateur.runs.recipe import FITTED

    output = values["output"]
    fitted = PruneConfig(plan=str(output / "pruning_plan.json"), **values["config"].model_dump(include=set(FITTED)))
    return command_text("secateur", "prune", values["model"], "-o", _beside(output, "pruned"), config=fitted)


def _after_recover(values: Values) -> str:
    model, output, uncut = values["model"], values["output"], values["config"].teacher
    uncut = [] if uncut is None else [uncut]
    unseen = _unseen(values["config"])
    if (output / ADAPTER).is_file():
        return _command("evaluate", *uncut, model, "--adapter", output, *unseen)
    return _command("evaluate", *(uncut or [model]), output, *unseen)


def _unseen(config: Any) -> list[object]:
    """The parts of the training texts that were left out, as options of evaluate."""
    from secateur.data.slices import split_name
    from secateur.data.sources import shares_of

    rests: list[str] = []
    for source, _ in shares_of(str(config.data)):
        base, part = split_name(source)
        start, _, stop = part.written[1:-1].partition(":") if part is not None else ("", "", "")
        if part is not None and part.stop < 1:
            rests.append(f"{base}[{stop}:]")
        elif part is not None and part.start > 0:
            rests.append(f"{base}[:{start}]")
    return ["--data", ",".join(rests), *_rows(config)] if rests else []


def _rows(config: Any) -> list[object]:
    """How rows are read, as options."""
    given = [(name, getattr(config, name, None)) for name in ROWS]
    return [word for name, value in given if value is not None for word in (flag(name), value)]


def _after_run(values: Values) -> str | None:
    from secateur.runs.figures import CUT, EXPORT_NAMES, EXPORTED, ROUNDED, SPARSE, TRAINED
    from secateur.runs.recipe import Recipe, load_recipe

    recipe = load_recipe(values["recipe"])
    directory = values["output"] or recipe.directory
    if not isinstance(recipe, Recipe):
        task, name = recipe.longrange.task, recipe.longrange.modes[0]
        return _command("longrange", "evaluate", "--task", task, "--name", name, "-o", directory)
    exported = [directory / EXPORTED / name for name in EXPORT_NAMES.values()]
    made = [directory / stage for stage in (ROUNDED, TRAINED, SPARSE, CUT) if (directory / stage).is_dir()]
    for place in exported:
        if place.exists():
            return _serve(place)
    if not made:
        return _command("prune", recipe.model, "-o", "out/pruned")
    if (made[0] / ADAPTER).is_file():
        below = made[1] if len(made) > 1 else recipe.model
        return _merge(below, made[0], _beside(directory, "merged"))
    return _ship(made[0])


def _after_tune(values: Values) -> str:
    return _command("attention", "compare", values["model"], "--profile", values["output"])


def _after_attention(values: Values) -> str:
    config = values["config"]
    if config.profile is None:
        return _command("attention", "tune", values["model"], "-o", "profile.safetensors")
    return _command("attention", "generate", values["model"], "--profile", config.profile, "--prompt-file", "FILE")


def _after_generate(values: Values) -> str:
    profile = values["config"].profile
    if profile is None:
        return _command("attention", "tune", values["model"], "-o", "profile.safetensors")
    return _command("attention", "compare", values["model"], "--profile", profile)


def _after_diagnose(values: Values) -> str:
    return _command("evaluate", values["model"])


def _after_plan(values: Values) -> str | None:
    """What fits by the smallest cut, with the options it needs."""
    from secateur.planning import estimate

    found = estimate(values["model"], values["config"])
    if found.cuts:
        made = [cut for cut in found.cuts if cut.command]
        return min(made, key=lambda cut: cut.ratio or 0.0).command if made else None
    advice = found.advice
    fitting = [line.removeprefix(CAN) for line in advice if line.startswith(CAN)]
    return next((line for line in fitting if re.search(r" (prune|sparsify) ", line)), None)


def _after_measuring(values: Values) -> str:
    """A cut to a round time below the model's own."""
    from secateur.costs.measuring import measure_widths

    config = values["config"]
    own = measure_widths(values["model"], None, config.model_copy(update={"again": False})).milliseconds
    engine = [] if config.engine == "transformers" else ["--engine", config.engine]
    context = [] if config.context is None else ["--context", config.context]
    context += ["--bits", 8] if config.dtype == "q8_0" else ["--bits", 4] if config.dtype == "q4_k_m" else []
    target = ["--target-latency", f"{0.8 * own:.2g}ms", *engine, *context]
    return _command("prune", values["model"], "-o", "out/pruned", *target)


def _after_push(values: Values) -> str:
    """Talking with what was sent; after `--dry-run` the same command without it."""
    if not values["dry_run"]:
        return _command("chat", values["repository"])
    private = ["--private"] if values["private"] else []
    named = [name for name in ("revision", "message") if values[name] is not None]
    texts = [word for name in named for word in (flag(name), values[name])]
    return _command("push", values["model"], values["repository"], *private, *texts)


def _is_rounded(model: str | Path) -> bool:
    """Whether a model's weights are of few bits."""
    from secateur.models.json_file import CONFIG, read_object
    from secateur.models.packed_config import METHOD
    from secateur.models.quantised import quantisation_method

    config = Path(model) / CONFIG
    return config.is_file() and quantisation_method(read_object(config), str(config)) == METHOD


def _merge(model: str | Path, adapter: str | Path, output: str) -> str:
    """Adding an adapter to a model's weights, which stop to be of few bits with it."""
    multiplied_out = ["--dequantize"] if _is_rounded(model) else []
    return _command("merge", model, "--adapter", adapter, "-o", output, *multiplied_out)


def _ship(model: str | Path) -> str:
    return _command("export", model, "-o", f"{Path(model)}.gguf")


def _serve(file: Path) -> str:
    if file.suffix == ".gguf":
        return _command("chat", file)
    return shlex.join(["vllm", "serve", str(file), "--trust-remote-code"])


def _command(*words: object) -> str:
    return shlex.join(["secateur", *map(str, words)])


def _beside(place: str | Path, name: str) -> str:
    """A path of that name in the same directory, with the first number behind it at which nothing stands."""
    directory, number, found = Path(place).parent, 1, name
    while (directory / found).exists():
        number += 1
        found = f"{name}-{number}"
    return str(directory / found)


def _of_run(values: Values) -> list[object]:
    config = values["config"]
    data = [] if config.data is None else ["--data", config.data]
    return ["--task", config.task, *data, "-o", values["output"]]


ROAD: dict[str, Callable[[Values], str | None]] = {
    "plan": _after_plan,
    "measure-widths": _after_measuring,
    "diagnose": _after_diagnose,
    "evaluate": _after_evaluate,
    "search": _after_search,
    "prune": _after_cut,
    "sparsify": _after_cut,
    "quantize": lambda values: _command("evaluate", values["model"], values["output"]),
    "recover": _after_recover,
    "merge": lambda values: _command("evaluate", values["model"], values["output"]),
    "export": lambda values: _serve(values["output"]),
    "run": _after_run,
    "sweep": lambda _: _command("export", "CELL/recover", "-o", "model.gguf"),
    "compare": lambda _: _command("export", "MODEL", "-o", "model.gguf"),
    "chat": lambda values: _command("push", values["model"], "USER/NAME") if Path(values["model"]).is_dir() else None,
    "push": _after_push,
    "report": lambda values: _command(
        "compare", values["run"], "OTHER_RUN", "-o", _beside(values["run"], "comparison")
    ),
    "attention tune": _after_tune,
    "attention compare": _after_attention,
    "attention generate": _after_generate,
    "longrange prepare": lambda values: _command(
        "longrange",
        "train",
        "--task",
        values["task"],
        "--data",
        values["output"],
        "-o",
        _beside(values["output"], "runs"),
    ),
    "longrange train": lambda values: _command(
        "longrange", "evaluate", *_of_run(values), "--name", values["config"].name
    ),
    "longrange evaluate": lambda values: _command(
        "longrange", "train", *_of_run(values), "--mode", "dense", "--name", "dense"
    ),
}
