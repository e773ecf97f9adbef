"""The kinds of files that secateur reads: one entry for each."""

from collections.abc import Callable
from dataclasses import dataclass

from fuzz.mutations import (
    Mutate,
    mutated_gguf,
    mutated_json,
    mutated_metadata,
    mutated_safetensors,
    mutated_text,
    mutated_yaml,
)
from fuzz.samples import CUT, LONG_RANGE_RUN, ON_CPU, PREPARED

EVALUATE = ("--data", "text.txt", "--windows", "1", "--seqlen", "32", "--no-speed", *ON_CPU)
PROFILED = ("--data", "text.txt", "--windows", "1", "--seqlen", "64", "--repeats", "1", *ON_CPU)
TASKS = ("--tasks", "sums", "--include-path", "tasks", "--no-perplexity", "--no-speed", "--limit", "2", *ON_CPU)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: in the table.
        file: its place among the samples.
        mutate: damages its content.
        commands: those that read it; a mutation goes to one of them.
        needs: what else of the samples they read.
        stops: names of functions, `module:name.name`, that are not called: with them the work begins that a sound file
            leads to, and which takes as long as the file asks for.
    """

    name: str
    file: str
    mutate: Mutate
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()


def _of_model(file: str, mutate: Callable[..., bytes] = mutated_json) -> Kind:
    return Kind(
        file,
        f"model/{file}",
        mutate,
        (("evaluate", "model", *EVALUATE), ("evaluate", "model", *EVALUATE), ("diagnose", "model", *EVALUATE[:6])),
        ("model", "text.txt"),
    )


KINDS = (
    Kind(
        "config.json",
        "model/config.json",
        mutated_json,
        (
            ("evaluate", "model", *EVALUATE),
            ("evaluate", "model", *EVALUATE),
            ("diagnose", "model", *EVALUATE[:6], *ON_CPU),
            ("plan", "model/config.json"),
            ("export", "model", "-o", "out.gguf"),
            ("prune", "model", "-o", "out", *CUT),
        ),
        ("model", "text.txt"),
    ),
    _of_model("generation_config.json"),
    _of_model("tokenizer.json"),
    _of_model("tokenizer_config.json"),
    Kind(
        "safetensors index",
        "sharded/model.safetensors.index.json",
        mutated_json,
        (("evaluate", "sharded", *EVALUATE),),
        ("sharded", "text.txt"),
    ),
    _of_model("model.safetensors", mutated_safetensors),
    Kind("GGUF", "tiny.gguf", mutated_gguf, (("evaluate", "tiny.gguf", *EVALUATE),), ("text.txt",)),
    Kind(
        "adapter_config.json",
        "adapter/adapter_config.json",
        mutated_json,
        (
            ("evaluate", "model", "--adapter", "adapter", *EVALUATE),
            ("merge", "model", "--adapter", "adapter", "-o", "out", *ON_CPU),
        ),
        ("model", "adapter", "text.txt"),
    ),
    Kind(
        "adapter weights",
        "adapter/adapter_model.safetensors",
        mutated_safetensors,
        (("evaluate", "model", "--adapter", "adapter", *EVALUATE),),
        ("model", "adapter", "text.txt"),
    ),
    Kind(
        "attention profile",
        "profile.safetensors",
        mutated_metadata,
        (("attention", "compare", "model", "--profile", "profile.safetensors", *PROFILED),),
        ("model", "text.txt"),
    ),
    Kind(
        "lineage.json",
        "pruned/lineage.json",
        mutated_json,
        (("sparsify", "pruned", "-o", "out", "--method", "magnitude", *ON_CPU),),
        ("pruned",),
    ),
    Kind(
        "pruning plan",
        "pruned/pruning_plan.json",
        mutated_json,
        (("prune", "model", "-o", "out", "--plan", "pruned/pruning_plan.json", *CUT),),
        ("model", "text.txt"),
    ),
    Kind(
        "layer importance",
        "pruned/layer_importance.json",
        mutated_json,
        (("prune", "model", "-o", "out", "--layer-importance-file", "pruned/layer_importance.json", *CUT),),
        ("model", "text.txt"),
    ),
    Kind(
        "sparsity.json",
        "sparse/sparsity.json",
        mutated_json,
        (
            ("evaluate", "sparse", *EVALUATE),
            ("prune", "sparse", "-o", "out", "--ratio", "0.2", *CUT),
            ("merge", "sparse", "--adapter", "adapter", "--allow-dense", "-o", "out", *ON_CPU),
        ),
        ("sparse", "adapter", "text.txt"),
    ),
    Kind(
        "mark of what was written",
        "pruned/.secateur.json",
        mutated_json,
        (("prune", "model", "-o", "pruned", "--overwrite", "--ratio", "0.2", *CUT),),
        ("model", "pruned", "text.txt"),
    ),
    Kind(
        "stages.json",
        "run/stages.json",
        mutated_json,
        (("run", "small.yaml", "-o", "run"),),
        ("run", "small.yaml", "model", "text.txt"),
    ),
    *(
        Kind(f"{file} of a run", f"run/{file}", mutated_json, (("report", "run"),), ("run",))
        for file in ("pruning_plan.json", "layer_importance.json", "sparsity.json")
    ),
    Kind(
        "metrics.json of a run",
        "run/metrics.json",
        mutated_json,
        (("report", "run"), ("compare", "run", "second.json", "-o", "out")),
        ("run", "second.json"),
    ),
    Kind(
        "figures (--json)",
        "first.json",
        mutated_json,
        (("compare", "first.json", "second.json", "-o", "out"), ("compare", "second.json", "first.json", "-o", "out")),
        ("second.json",),
    ),
    Kind("sweep.json", "sweep/sweep.json", mutated_json, (("compare", "sweep", "-o", "out"),), ("sweep",)),
    Kind(
        "recipe",
        "small.yaml",
        mutated_yaml,
        (("run", "small.yaml", "-o", "out"), ("sweep", "small.yaml", "-o", "out", "--set", "prune.ratio=0.2,0.3")),
        ("model", "text.txt"),
        (
            "secateur.runs.directory:Run.open",
            "secateur.longrange.recipe:run_longrange",
            "secateur.runs.sweep:_write_state",
        ),
    ),
    Kind("task file", "tasks/sums.yaml", mutated_yaml, (("evaluate", "model", *TASKS),), ("model", "tasks")),
    Kind("questions of a task", "tasks/sums.jsonl", mutated_text, (("evaluate", "model", *TASKS),), ("model", "tasks")),
    Kind(
        "text (JSONL)",
        "lines.jsonl",
        mutated_text,
        (("evaluate", "model", "--data", "lines.jsonl", *EVALUATE[2:]),),
        ("model",),
    ),
    Kind(
        "longrange config",
        "long.yaml",
        mutated_yaml,
        (("longrange", "train", *LONG_RANGE_RUN, "--config", "long.yaml", "--name", "new"),),
        ("data",),
        ("secateur.longrange.run:Trainer",),
    ),
    *(
        Kind(
            f"longrange {file}",
            f"long/sat/{file}",
            mutate,
            (
                ("longrange", "evaluate", *LONG_RANGE_RUN),
                ("longrange", "train", *LONG_RANGE_RUN, "--config", "long.yaml"),
            ),
            ("data", "long", "long.yaml"),
        )
        for file, mutate in (
            ("settings.json", mutated_json),
            ("results.json", mutated_json),
            ("best.safetensors", mutated_metadata),
        )
    ),
    Kind(
        "longrange meta.json",
        "data/meta.json",
        mutated_json,
        (("longrange", "evaluate", *LONG_RANGE_RUN),),
        ("data", "long"),
    ),
    Kind(
        "longrange options.json",
        "data/options.json",
        mutated_json,
        (("longrange", "prepare", "listops", "-o", "data", *PREPARED),),
        ("data",),
    ),
)
