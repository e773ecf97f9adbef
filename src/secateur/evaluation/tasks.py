"""Questions with known answers: zero-shot and few-shot tasks, by EleutherAI's lm-evaluation-harness (lm-eval)."""

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.distributed import is_first
from secateur.errors import InputError
from secateur.evaluation.config import EvaluateConfig
from secateur.evaluation.modes import measuring
from secateur.evaluation.task_files import TaskFiles, read_task_files
from secateur.files import expanded


@dataclass(frozen=True)
class TaskScore:
    """What a model reached on a task.

    Attributes:
        metrics: by lm-eval's names: `acc`, the share of right answers; `acc_norm`, the same with each answer's
            log-probability divided by its length in characters; others as the task has them. None where not finite.
        stderr: their standard errors, None where there is none.
        n: examples.
        n_shot: solved examples before each question.
        prompts: a fingerprint of all questions and answers: scores compare where it is the same.
    """

    metrics: dict[str, float | None]
    stderr: dict[str, float | None]
    n: int
    n_shot: int
    prompts: str


@dataclass(frozen=True)
class Tasks:
    """Tasks with their data.

    Attributes:
        loaded: by the name they were asked for by.
        config: how they are to be measured.
    """

    loaded: dict[str, Any]
    config: EvaluateConfig


def load_tasks(config: EvaluateConfig) -> Tasks:
    """Find and build the tasks of a config, and fetch their data.

    Raises:
        InputError: lm-eval is not installed; a name is unknown; a task of a user's own is not well made, or would run
            code and `trust_remote_code` is off.
        DataError: the data of a task cannot be had.
    """
    if not config.tasks:
        return Tasks({}, config)
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("tasks need a package; run: pip install 'secateur[tasks]'")
    files = read_task_files(config.include_path) if config.include_path is not None else TaskFiles()
    files.require_sound(config.tasks)
    from secateur.evaluation import harness

    with harness.quiet_and_sandboxed(config.trust_remote_code):
        return Tasks(harness.load(config.tasks, files, config.trust_remote_code), config)


def task_files(config: EvaluateConfig) -> list[str]:
    """The files that a config's own tasks are made of, as far as they lie in `include_path`."""
    root = expanded(config.include_path) if config.include_path is not None else None
    return sorted(str(path) for path in root.rglob("*") if path.is_file()) if root is not None else []


def measure_tasks(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, name: str
) -> dict[str, TaskScore]:
    """Ask a model the questions of tasks.

    The answer that a model gives the highest log-probability counts, unless the task lets it write. Of several
    processes the first asks while the others wait, and has the scores.
    https://github.com/EleutherAI/lm-evaluation-harness

    Args:
        model: a causal language model, or one with a PEFT adapter.
        tokenizer: its tokenizer.
        tasks: of `load_tasks`.
        name: what the progress bar calls the model.

    Returns:
        The scores, by name. A group that has a score of its own is one entry, any other an entry per task.

    Raises:
        InputError: a task fails on its data, or a batch does not fit in the GPU's memory.
    """
    if not tasks.loaded or not is_first():
        return {}
    from secateur.evaluation import harness

    config = tasks.config
    scores: dict[str, TaskScore] = {}
    with harness.quiet_and_sandboxed(config.trust_remote_code), measuring(model):
        for asked, loaded in tasks.loaded.items():
            lm = harness.HeldModel(model, tokenizer, config.batch_size, f"{name}: {asked}")
            try:
                results = harness.measure(lm, loaded, config.limit, config.num_fewshot, config.seed)
            except torch.OutOfMemoryError as error:
                raise InputError(
                    f"the task {asked} does not fit in the GPU's memory with a batch_size of {config.batch_size}; "
                    "choose a smaller one"
                ) from error
            except (TemplateError, LookupError, TypeError, ValueError, AssertionError) as error:
                raise InputError(f"the task {asked} fails: {type(error).__name__}, {_one_line(error)}") from error
            scores |= _scores(results, loaded)
    return scores


def _scores(results: dict[str, Any], loaded: dict[str, Any]) -> dict[str, TaskScore]:
    from secateur.evaluation.harness import metrics_of

    groups = {name: group for name, group in loaded.get("groups", {}).items() if group.has_aggregation}
    inside = {part.task_name for group in groups.values() for part in group.get_all_tasks()}
    inside |= {part.name for group in groups.values() for part in group.get_all_groups()}
    scores = {}
    for name in [*groups, *loaded["tasks"]]:
        if name in inside:
            continue
        figures = results["results"][name]
        metrics, stderr = metrics_of(figures)
        parts = [part.task_name for part in groups[name].get_all_tasks()] if name in groups else [name]
        shots = {int(results["n-shot"][part] or 0) for part in parts}
        prompts = "".join(results["prompts"][part] for part in parts)
        scores[name] = TaskScore(
            metrics={metric: value if math.isfinite(value) else None for metric, value in metrics.items()},
            stderr=stderr,
            n=int(figures["sample_len"]),
            n_shot=max(shots),
            prompts=prompts if len(parts) == 1 else hashlib.sha256(prompts.encode()).hexdigest()[:16],
        )
    return scores


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"
