"""lm-eval's own tasks by name, without reading all of its 14,000 YAML files where a few will do.

Imported only where lm-eval is installed.
"""

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from secateur.evaluation.task_files import DECLARED

# A line such as `tag: [a, b]` or `  - a`, and an item in it.
LISTED = re.compile(r"""^[ \t]*(?:- *)?(?:["']?(?:task|group|tag)["']?:)?[ \t]*([^:\n]*)$""", re.MULTILINE)
ITEM = re.compile(r"""[^\s"'\[\],#]+""")


def is_mentioned(name: str) -> bool:
    """Whether any of lm-eval's files has this name where names stand. What has not is no task, group or tag of it."""
    return name in _values()


def declared_names() -> list[str]:
    """Names of lm-eval's tasks and groups, to suggest one."""
    return list(_declared())


def entries_of(names: Iterable[str]) -> dict[str, Entry]:
    """lm-eval's entries of tasks and groups with all their members, out of a few files where those say it all.

    A tag is said by each task that has it: where a name may be one, all files are read.
    """
    found: dict[str, Entry] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        files = _declared().get(name, [])
        if len(files) != 1:
            return all_entries()
        entry = _entry(Path(files[0]), name)
        if entry is None:
            return all_entries()
        found[name] = entry
        waiting += members_of(entry.cfg or {}) if entry.kind is Kind.GROUP else []
    return found


@functools.cache
def all_entries() -> dict[str, Entry]:
    """Everything that lm-eval has: seconds of reading, a minute on a slow disk."""
    return dict(TaskManager().task_index)


def members_of(config: dict[str, Any], with_written_out: bool = False) -> list[str]:
    """The names of what a group holds, itself or in groups that are written out inside it.

    Args:
        config: of the group.
        with_written_out: also the names of those groups; lm-eval takes a group of its index for one of that name.
    """
    members = config.get("task")
    names: list[Any] = []
    for member in members if isinstance(members, list) else [members]:
        if not isinstance(member, dict):
            names.append(member)
        elif isinstance(member.get("task"), list):
            names += [member.get("group")] if with_written_out else []
            names += members_of(member, with_written_out)
        else:
            names.append(member.get("task") or member.get("group"))
    return [name for name in names if isinstance(name, str)]


def _entry(path: Path, name: str) -> Entry | None:
    """What a file declares, as lm-eval's own index has it; None where it cannot be read."""
    index: dict[str, Entry] = {}
    try:
        TaskIndex.process_cfg(load_yaml(path, resolve_func=False), path, index)
    except Exception:  # noqa: BLE001 lm-eval passes such files over as well
        return None
    return index.get(name)


@functools.cache
def _texts() -> dict[str, str]:
    """All YAML by its path. Files that are only there to be included need no suffix."""
    root = Path(lm_eval.tasks.__file__).parent
    paths = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    texts = (path for path in paths if path.suffix in ("", ".yaml", ".yml"))
    return {str(path): path.read_text(encoding="utf-8", errors="replace") for path in texts}


@functools.cache
def _values() -> frozenset[str]:
    """All that stands behind `task`, `group` or `tag`, or in a list."""
    return frozenset(
        value for text in _texts().values() for values in LISTED.findall(text) for value in ITEM.findall(values)
    )


@functools.cache
def _declared() -> dict[str, list[str]]:
    """The files that declare a name, by the name."""
    found: dict[str, list[str]] = {}
    for path, text in _texts().items():
        for _, name in DECLARED.findall(text):
            if path.endswith(".yaml"):
                found.setdefault(name, []).append(path)
    return found
