"""Words that go into a model card: without where things stand on somebody's machine, and without Markdown's signs."""

import re
import shlex

# A path from the root, the home directory or a drive on, up to the last of its names.
NAMES = r"[^\s,;'\"()\[\]/\\]+[/\\]"
PLACE = re.compile(rf"(?<![\w./~:-])(?:file://)?(?:(?:[A-Za-z]:[\\/]|~[\w.-]*/)(?:{NAMES})*|/(?:{NAMES})+)")
SIGNS = re.compile(r"([\\`*_\[\]<>|#])")


def without_places(text: str) -> str:
    """A text in which a file is called by its name: `notes.txt` for `/home/me/notes.txt`."""
    return PLACE.sub("", text)


def shared_command(command: str) -> str:
    """A command line as others may read it: every path from the root or the home directory on becomes a name."""
    try:
        words = shlex.split(command)
    except ValueError:
        return without_places(command)
    return shlex.join(_shared_word(word) for word in words)


def _shared_word(word: str) -> str:
    parts = re.split(r"([=,])", word)  # of --data=A,B
    return "".join(name_of(part) for part in parts)


def name_of(part: str) -> str:
    """What a path leads to, without the way; what is no path from the root, the home or the parent is left as it is."""
    if re.match(r"[/~]|[A-Za-z]:[\\/]|\.\./", part) and not part.startswith("//"):
        return re.split(r"[/\\]", part.rstrip("/\\"))[-1] or "DIR"
    return part


def markdown(text: object) -> str:
    """A text as Markdown shows it as it is, on one line."""
    return SIGNS.sub(r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """A text as inline code."""
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`"
