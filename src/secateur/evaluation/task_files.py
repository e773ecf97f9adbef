"""Tasks in a user's own files: YAML as lm-eval has it, read so that nothing in it runs code.

lm-eval itself runs what a `!function` tag names while it reads a file, and loads metrics by their names from the hub.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from secateur.errors import DataError, InputError
from secateur.evaluation.questions import require_questions
from secateur.evaluation.task_values import GENERATE_CODE, Generation, TaskValues, complaint
from secateur.files import cache_directory, expanded
from secateur.files.input_text import read_input_text, shortened
from secateur.files.templates import template_complaint
from secateur.files.yaml_text import LONGEST, Loader, read_yaml

BUILDERS = ("json", "csv", "parquet", "text")
MOST_INCLUDES, MOST_KEYS = 20, 1000
# A line that names a task or a group.
DECLARED = re.compile(r"""^["']?(task|group)["']?:[ \t]*["']?([^"'\s#\[\]{}]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)
HUB_DATA_SET = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
GROUP_KEYS = {"task", "group", "group_alias", "aggregate_metric_list", "metadata", "tag"}
TASK_KEYS = {
    *("task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "metadata"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "fewshot_config", "num_fewshot"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter"),
    *("output_type", "generation_kwargs", "gen_prefix", "repeats", "metric_list", "filter_list"),
    *("should_decontaminate", "doc_to_decontamination_query"),
}
# What lm-eval calls, imports or runs.
CODE_KEYS = {"class", "custom_dataset", "process_docs", "process_results", "use_prompt", "unsafe_code"}
DATA_KEYS = {"data_files", "data_dir", "revision", "field", "sep", "delimiter", "sample_by"}
ASK = "pass --trust-remote-code if you trust it"


@dataclass(frozen=True)
class PythonFunction:
    """What stands behind `!function`. It is not imported."""

    name: str


class _Loader(Loader):
    """YAML of plain values in which `!function` is kept as a name."""


def _python_function(loader: yaml.SafeLoader, node: yaml.Node) -> PythonFunction:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "!function is not followed by a name", node.start_mark)
    return PythonFunction(str(loader.construct_scalar(node)))


_Loader.add_constructor("!function", _python_function)


@dataclass(frozen=True)
class TaskFile:
    """A task or a group.

    Attributes:
        path: of its YAML.
        config: the content, with what it includes.
    """

    path: Path
    config: dict[str, Any]

    @property
    def is_group(self) -> bool:
        return "group" in self.config

    @property
    def name(self) -> str:
        return str(self.config["group" if self.is_group else "task"])


@dataclass(frozen=True)
class KnownNames:
    """The metrics of lm-eval, and its ways to sum them up."""

    metrics: frozenset[str]
    aggregations: frozenset[str]


@dataclass(frozen=True)
class BrokenFile:
    """A YAML file that cannot be used.

    Attributes:
        message: what is wrong with it, one line.
        names: of the tasks or groups that it seems to be.
    """

    message: str
    names: frozenset[str]


@dataclass(frozen=True)
class TaskFiles:
    """All YAML files below a directory.

    Attributes:
        tasks: by name.
        broken: those that cannot be read, or whose values no task has.
    """

    tasks: dict[str, TaskFile] = field(default_factory=dict)
    broken: list[BrokenFile] = field(default_factory=list)

    def require_sound(self, names: Iterable[str]) -> None:
        """Raise `InputError` where one of the names is that of a file that cannot be used."""
        wanted = set(names) - self.tasks.keys()
        messages = [broken.message for broken in self.broken if broken.names & wanted]
        if messages:
            raise InputError("; ".join(messages))


def read_task_files(directory: str | Path) -> TaskFiles:
    """Read the tasks below a directory. A mapping without a task's or group's name is there to be included.

    Raises:
        InputError: there is no such directory, no YAML in it, or two files name the same task.
    """
    root = expanded(directory)
    if not root.is_dir():
        raise InputError(f"include_path {root} is not a directory")
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".yaml", ".yml") and path.is_file())
    if not paths:
        raise InputError(f"include_path {root} holds no YAML file")
    files, reader = TaskFiles(), _Reader()
    for path in paths:
        try:
            config = reader.read(path)
            if not {"task", "group"} & config.keys():
                continue
            task = TaskFile(path, copy.deepcopy(config))
            _check_values(task)
        except InputError as error:
            files.broken.append(BrokenFile(str(error), _names_in(path)))
            continue
        if task.name in files.tasks:
            raise InputError(f"{path} and {files.tasks[task.name].path} both name the task {task.name}")
        files.tasks[task.name] = task
    return files


class _Reader:
    """Reads YAML files with what they include, each once."""

    def __init__(self) -> None:
        self._done: dict[Path, dict[str, Any]] = {}
        self._reading: list[Path] = []

    def read(self, path: Path) -> dict[str, Any]:
        """The content of a YAML file over that of the files it includes. Raises `InputError`."""
        place = _resolved(path)
        if place in self._reading:
            raise InputError(f"{path} includes itself")
        if len(self._reading) > MOST_INCLUDES:
            raise InputError(f"{path} is included through more than {MOST_INCLUDES} other files")
        if place not in self._done:
            self._reading.append(place)
            try:
                self._done[place] = self._merged(path)
            finally:
                self._reading.pop()
        return self._done[place]

    def _merged(self, path: Path) -> dict[str, Any]:
        text = read_input_text(path, largest=LONGEST)
        config, _ = read_yaml(text, str(path), "a task: it must hold keys such as task and dataset_path", _Loader)
        included = config.pop("include", [])
        names = included if isinstance(included, list) else [included]
        if not all(isinstance(name, str) and name for name in names):
            raise InputError(f"{path}: include: give a file, or a list of files")
        merged: dict[str, Any] = {}
        for name in names:
            merged |= self.read(path.parent / name)
        if len(merged | config) > MOST_KEYS:
            raise InputError(f"{path} holds more than {MOST_KEYS} keys, with what it includes")
        return merged | config


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _names_in(path: Path) -> frozenset[str]:
    """What a file that cannot be read seems to be called."""
    try:
        text = path.read_bytes()[:LONGEST].decode("utf-8", errors="replace")
    except OSError:
        text = ""
    return frozenset({path.stem, *(name for _, name in DECLARED.findall(text))})


def _check_values(task: TaskFile) -> None:
    """Raise `InputError` where a value is not what lm-eval takes: it would fail on it late, or measure nothing."""
    key = "group" if task.is_group else "task"
    if not isinstance(task.config[key], str) or not task.name.strip():
        raise InputError(f"{task.path}: the name of its {key} is not a text")
    _check_content(task.path, task.config)


def _check_content(path: Path, config: Mapping[str, Any]) -> None:
    written = {key: value for key, value in config.items() if not isinstance(value, PythonFunction)}
    wrong = complaint(TaskValues, written) or template_complaint(written)
    if wrong is not None:
        raise InputError(f"{path}: {wrong}")
    generation = written.get("generation_kwargs") or {}
    code = next((key for key in GENERATE_CODE if key in generation), None)
    wrong = complaint(Generation, generation) if code is None else None
    if wrong is not None:
        raise InputError(f"{path}: generation_kwargs.{wrong}")
    members = config.get("task")
    if "group" in config and (not isinstance(members, list) or not members):
        raise InputError(f"{path}: task: a group needs a list of tasks")
    if isinstance(members, list):
        for member in members:
            if isinstance(member, dict):
                _check_content(path, member)
            elif not isinstance(member, str) or not member:
                raise InputError(f"{path}: task: a group holds names of tasks, or tasks that are written out")


def plain_config(task: TaskFile, known: KnownNames) -> dict[str, Any]:
    """A task's content as lm-eval may have it: nothing in it runs code, and its files are there.

    A path of `data_files` is below the directory of the YAML file, or else below the current one.

    Args:
        task: as read.
        known: the names that lm-eval knows.

    Raises:
        InputError: something in it would run code, or is not known.
        DataError: a file is missing or empty.
    """
    for place, value in _walk(task.config):
        if isinstance(value, PythonFunction):
            raise InputError(f"{task.path}: {place} would run the Python function {value.name}; {ASK}")
    _check_keys(task, task.config, known)
    if not task.is_group and "dataset_path" not in task.config:
        raise InputError(f"{task.path}: dataset_path is missing; use {_listed(BUILDERS)} with data_files")
    return with_data(task.path, task.config)


def _check_keys(task: TaskFile, config: Mapping[str, Any], known: KnownNames) -> None:
    keys = TASK_KEYS | GROUP_KEYS
    for key in config:
        if key in CODE_KEYS:
            raise InputError(f"{task.path}: {key} would run code; {ASK}")
        if key not in keys:
            hint = suggestion(str(key), keys) or f"; known are {', '.join(sorted(TASK_KEYS))}"
            raise InputError(f"{task.path}: {shortened(key)}: unknown key{hint}")
    for child in _children(config):
        _check_keys(task, child, known)
    code = next((key for key in GENERATE_CODE if key in (config.get("generation_kwargs") or {})), None)
    if code is not None:
        raise InputError(f"{task.path}: generation_kwargs.{code} would run code; {ASK}")
    _check_metrics(task, config.get("metric_list") or [], known)
    if config.get("dataset_path") is not None:
        _check_data_set(task, str(config["dataset_path"]), config.get("dataset_kwargs") or {})


def _check_metrics(task: TaskFile, listed: Any, known: KnownNames) -> None:
    entries = listed if isinstance(listed, list) else [listed]
    for entry in entries:
        name = entry.get("metric") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise InputError(f"{task.path}: an entry of metric_list is not like 'metric: acc'")
        if entry.get("hf_evaluate"):
            raise InputError(f"{task.path}: hf_evaluate would run a program from the hub for the metric {name}; {ASK}")
        for what, given, names in (
            ("metric", name, known.metrics),
            ("aggregation", entry.get("aggregation"), known.aggregations),
        ):
            if given is not None and (not isinstance(given, str) or given not in names):
                hint = suggestion(str(given), names) or f"; known are {', '.join(sorted(names))}"
                raise InputError(f"{task.path}: lm-eval has no {what} {shortened(given)}{hint}")


def _check_data_set(task: TaskFile, name: str, options: Any) -> None:
    if not isinstance(options, dict):
        raise InputError(f"{task.path}: dataset_kwargs is not a mapping such as 'data_files: questions.jsonl'")
    strange = [key for key in options if key not in DATA_KEYS]
    if strange:
        reason = "would run code" if strange[0] == "trust_remote_code" else "is not known"
        raise InputError(f"{task.path}: dataset_kwargs.{shortened(strange[0])} {reason}; {ASK}")
    if name in BUILDERS:
        if not {"data_files", "data_dir"} & options.keys():
            raise InputError(f"{task.path}: dataset_path {name} needs dataset_kwargs with data_files")
    elif expanded(name).exists() or not HUB_DATA_SET.fullmatch(name):
        raise InputError(
            f"{task.path}: dataset_path {shortened(name)} is neither a data set of the hub nor {_listed(BUILDERS)} "
            f"with data_files; another one could bring a program along; {ASK}"
        )


def with_data(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the YAML file `path` with full paths to its data files. Raises `DataError` as `plain_config`."""
    changed = dict(config)
    options = dict(config.get("dataset_kwargs") or {})
    if config.get("dataset_path") in BUILDERS and options:
        if "data_files" in options:
            options["data_files"] = _found(path, options["data_files"])
            if config["dataset_path"] == "json":
                for file in _plain_files(options["data_files"]):
                    require_questions(file)
        if "data_dir" in options:
            options["data_dir"] = _found(path, options["data_dir"])
        changed["dataset_kwargs"] = {"cache_dir": str(cache_directory() / "tasks"), **options}
    if isinstance(config.get("task"), list):
        changed["task"] = [with_data(path, child) if isinstance(child, dict) else child for child in config["task"]]
    return changed


def _found(path: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {split: _found(path, value) for split, value in files.items()}
    if isinstance(files, list):
        return [_found(path, value) for value in files]
    name = str(files)
    if "\0" in name or not name:
        raise DataError(f"{path}: dataset_kwargs: {shortened(repr(name))} is no name of a file")
    if "://" in name:
        return name
    for base in (path.parent, Path.cwd()):
        place = (base / expanded(name)).resolve()
        if place.is_file() and not _has_content(place):
            raise DataError(f"{path}: the data file {place} is empty")
        if place.exists() or any(base.glob(name) if not Path(name).is_absolute() else ()):
            return str(place)
    raise DataError(
        f"{path}: the data file {shortened(name)} is not there; paths are below {path.parent} or the current directory"
    )


def _plain_files(found: Any) -> Iterator[Path]:
    """The files in `data_files` that are no pattern and no address."""
    for value in found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]:
        if isinstance(value, dict | list):
            yield from _plain_files(value)
        elif Path(value).is_file():
            yield Path(value)


def _has_content(file: Path) -> bool:
    with file.open("rb") as stream:
        return any(line.strip() for line in stream)


def _walk(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a content, with its place as `metric_list.0.metric`."""
    yield place, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _walk(inner, f"{place}.{key}" if place else str(key))


def _children(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks and groups that are written out inside a group."""
    members = config.get("task")
    return [child for child in members if isinstance(child, dict)] if isinstance(members, list) else []


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean hellaswag?`, or nothing where no known name is like it."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
