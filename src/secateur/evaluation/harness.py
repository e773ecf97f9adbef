"""The side of lm-eval: its index of tasks, a loaded model as it wants it, one measurement.

Imported only where lm-eval is installed.
"""

import copy
import functools
import hashlib
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval.api.metrics
import lm_eval.utils
import tqdm
from jinja2 import StrictUndefined
from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from secateur.console import is_verbose, track
from secateur.data.hub import hub_errors, require_reachable
from secateur.data.reading import first_line
from secateur.errors import InputError, SecateurError
from secateur.evaluation.task_files import (
    BUILDERS,
    KnownNames,
    TaskFile,
    TaskFiles,
    plain_config,
    suggestion,
    with_data,
)
from secateur.evaluation.task_index import declared_names, entries_of, is_mentioned, members_of
from secateur.files.templates import BoundedSandbox

PLAIN_FILTER = "none"
BOOTSTRAPS = 1000
OWN_FILES = "give a task of local files with --include-path instead"
Loaded = dict[str, Any]  # what TaskManager.load gives: tasks, groups


class HeldModel(HFLM):
    """A model in memory, with PEFT or layers of different widths or not, as lm-eval calls it.

    One process asks all questions. lm-eval splits them where `rank` and `world_size` say so, and then needs
    `all_gather`, `gather_object` and `barrier` of this class.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        description: str,
    ) -> None:
        # lm-eval gives the tokenizer a pad token; log-probabilities in bfloat16 would have two digits.
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            batch_size=batch_size,
            backend="causal",
            softmax_dtype="float32",
        )
        self.description = description
        self._answered: Iterator[int] = iter(())

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        """Log-probabilities of answers, under secateur's own progress bar."""
        with self._progress(len(requests)):
            return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, under secateur's own progress bar."""
        with self._progress(len(requests)):
            return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: Any, *arguments: Any, **options: Any) -> Any:
        self._advance(len(inps))
        return super()._model_call(inps, *arguments, **options)

    def _model_generate(self, context: Any, *arguments: Any, **options: Any) -> Any:
        self._advance(len(context))
        return super()._model_generate(context, *arguments, **options)

    def _advance(self, count: int) -> None:
        for _ in range(count):
            next(self._answered, None)

    @contextmanager
    def _progress(self, total: int) -> Iterator[None]:
        bar = track(range(total), self.description, total)
        self._answered = bar
        try:
            yield
        finally:
            bar.close()


@contextmanager
def quiet_and_sandboxed(trusted: bool) -> Iterator[None]:
    """Without lm-eval's log and bars unless secateur is verbose; templates of tasks cannot reach Python.

    Args:
        trusted: leave templates as they are: their user lets tasks run code.
    """
    logs = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels, plain_bar, plain_environment = [log.level for log in logs], tqdm.tqdm.__init__, lm_eval.utils.env
    if not is_verbose():
        for log in logs:
            log.setLevel(logging.CRITICAL)
        tqdm.tqdm.__init__ = functools.wraps(plain_bar)(
            lambda self, *values, **options: plain_bar(self, *values, **{**options, "disable": True})
        )
    if not trusted:
        sandbox = BoundedSandbox(undefined=StrictUndefined, keep_trailing_newline=True)
        sandbox.filters |= plain_environment.filters
        lm_eval.utils.env = sandbox
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        tqdm.tqdm.__init__ = plain_bar
        lm_eval.utils.env = plain_environment


def load(names: Iterable[str], files: TaskFiles, trusted: bool) -> dict[str, Loaded]:
    """Build tasks with their data.

    Args:
        names: of tasks, groups and tags, of lm-eval or of the files.
        files: the user's own tasks; they go before lm-eval's of the same name.
        trusted: let the user's tasks run code.

    Returns:
        For each name what `TaskManager.load` gives.

    Raises:
        InputError: a name is unknown, or a task is not well made, or would run code.
        DataError: the data of a task cannot be had.
    """
    wanted = list(names)
    files.require_sound(wanted)
    index = _index(wanted, files)
    known = index.task_index
    reached = list(_reached(wanted, known))
    _require_no_circle(reached, known, files)
    for name in reached:
        if name in files.tasks:
            known[name].cfg = _content(files.tasks[name], trusted)
    for name, repository in _repositories(reached, known):
        with hub_errors(f"{repository} of the task {name}", OWN_FILES):
            require_reachable(repository)
    return {name: _built(index, name, files) for name in wanted}


def measure(lm: HeldModel, loaded: Loaded, limit: int | None, num_fewshot: int | None, seed: int) -> dict[str, Any]:
    """Ask a model the questions of a task, or of all tasks of a group.

    Args:
        lm: the model.
        loaded: the tasks, and their group.
        limit: use only the first so many examples of each task.
        num_fewshot: solved examples before each question; a task that is made for none keeps that. None: the task's.
        seed: of their choice, and of answers that are drawn.

    Returns:
        lm-eval's results, and as `prompts` a fingerprint of all questions and answers, by task.
    """
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    set_seed(seed)
    results = evaluate(lm, loaded, limit=limit, log_samples=False, bootstrap_iters=BOOTSTRAPS)
    results["prompts"] = {name: _fingerprint(task.instances) for name, task in loaded["tasks"].items()}
    return results


def metrics_of(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float | None]]:
    """The metrics of one task of lm-eval's results, and their standard errors, without the name of the usual filter."""
    values, errors = {}, {}
    for key, value in results.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        name = metric if chosen == PLAIN_FILTER else f"{metric} ({chosen})"
        error = results.get(f"{metric}_stderr,{chosen}")
        values[name] = float(value)
        errors[name] = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
    return values, errors


def _index(names: Iterable[str], files: TaskFiles) -> TaskManager:
    """The tasks that are wanted, and what they hold. Of lm-eval's as few files are read as will do.

    Raises:
        InputError: there is no task of that name, or its file cannot be used.
    """
    wanted = list(names)
    own: dict[str, Entry] = {}
    for task in files.tasks.values():
        TaskIndex.process_cfg(task.config, task.path, own)
    for entry in own.values():
        entry.yaml_path = None  # what was read and checked is used; the file is not read again
    reached = _reached(wanted, own)
    mentioned = [member for name in reached for member in (name, *members_of(own[name].cfg or {}))]
    files.require_sound(mentioned)
    others = sorted({*wanted, *mentioned} - own.keys())
    _require_known([name for name in others if not is_mentioned(name)], own, files)
    manager = TaskManager(include_defaults=False)
    if others:
        manager.task_index.update(entries_of(others))
    manager.task_index.update(own)
    _require_known([name for name in wanted if name not in manager.task_index], own, files)
    return manager


def _require_known(unknown: Iterable[str], own: Iterable[str], files: TaskFiles) -> None:
    names = list(unknown)
    if names:
        known = {*declared_names(), *own}
        messages = [f"there is no task {name}{suggestion(name, known)}" for name in names]
        raise InputError("; ".join([*messages, *(broken.message for broken in files.broken)]))


def _reached(names: Iterable[str], index: Mapping[str, Entry]) -> list[str]:
    """The names that are in the index, and all that their groups and tags hold."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        entry = index.get(name)
        if entry is None or name in found:
            continue
        found[name] = None
        waiting += _held(entry)
    return list(found)


def _held(entry: Entry) -> list[str]:
    """The names that a group or a tag holds, also those in groups that are written out inside a group."""
    if entry.kind is Kind.TAG:
        return sorted(entry.tags)
    return members_of(entry.cfg or {}, with_written_out=True) if entry.kind is Kind.GROUP else []


def _require_no_circle(names: Iterable[str], index: Mapping[str, Entry], files: TaskFiles) -> None:
    """Raise `InputError` where a group holds itself: lm-eval would build it without end."""
    held = {name: [member for member in _held(index[name]) if member in index] for name in names}
    for name in held:
        if name in _below(name, held):
            place = f"{files.tasks[name].path}: " if name in files.tasks else ""
            others = [other for other in held[name] if other != name and name in _below(other, held)]
            way = f" through {others[0]}" if others and name not in held[name] else ""
            raise InputError(f"{place}the group {name} holds itself{way}")


def _below(name: str, held: Mapping[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(held[name])
    while waiting:
        member = waiting.pop()
        if member not in found:
            found.add(member)
            waiting += held[member]
    return found


def _repositories(names: Iterable[str], index: Mapping[str, Entry]) -> list[tuple[str, str]]:
    """The data sets of the hub that tasks need, each with the first task that does."""
    needed: dict[str, str] = {}
    for name in names:
        repository = (index[name].cfg or {}).get("dataset_path")
        if isinstance(repository, str) and repository not in BUILDERS and not Path(repository).exists():
            needed.setdefault(repository, name)
    return [(name, repository) for repository, name in needed.items()]


def _content(task: TaskFile, trusted: bool) -> dict[str, Any]:
    if not trusted:
        return plain_config(task, KnownNames(frozenset(METRIC_REGISTRY), frozenset(AGGREGATION_REGISTRY)))
    try:
        return with_data(task.path, load_yaml(task.path))
    except SecateurError:
        raise
    except Exception as error:
        raise InputError(f"{task.path}: {_reason(error)}") from error


def _built(index: TaskManager, name: str, files: TaskFiles) -> Loaded:
    local = files.tasks.get(name)
    try:
        if local is not None:
            return index.load([name])
        with hub_errors(name, OWN_FILES):
            return index.load([name])
    except SecateurError:
        raise
    except Exception as error:
        place = f"{local.path}: " if local is not None else ""
        raise InputError(f"{place}the task {name} cannot be built: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = re.sub(r"\s+", " ", first_line(error)).strip() or type(error).__name__
    return f"{type(error).__name__}, {text}"


def _fingerprint(instances: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for instance in instances:
        digest.update(repr(instance.args).encode())
    return digest.hexdigest()[:16]
