"""Writing results so that a kill or a full disk leaves either the old result or the new one, never half of one.

What is deleted is what secateur wrote, and nothing else: every output directory carries a list of its files.
"""

from secateur.files.checks import (
    cache_directory,
    input_path,
    require_apart,
    require_directory,
    require_free,
    require_new_file,
    require_own_files,
    require_writable,
)
from secateur.files.claims import claimed
from secateur.files.directories import new_directory, working_directory
from secateur.files.failures import reported
from secateur.files.marks import (
    accept_changes,
    add_to_mark,
    clear_own,
    is_as_written,
    is_empty,
    is_marked,
    is_own,
    remove_own,
    replace_own,
    require_only_own,
)
from secateur.files.names import dropped, expanded, partial_of
from secateur.files.writing import (
    OfDirectory,
    new_file,
    write_bytes,
    write_extra,
    write_figures,
    write_json,
    write_text,
)

__all__ = [
    "OfDirectory",
    "accept_changes",
    "add_to_mark",
    "cache_directory",
    "claimed",
    "clear_own",
    "dropped",
    "expanded",
    "input_path",
    "is_as_written",
    "is_empty",
    "is_marked",
    "is_own",
    "new_directory",
    "new_file",
    "partial_of",
    "remove_own",
    "replace_own",
    "reported",
    "require_apart",
    "require_directory",
    "require_free",
    "require_new_file",
    "require_only_own",
    "require_own_files",
    "require_writable",
    "working_directory",
    "write_bytes",
    "write_extra",
    "write_figures",
    "write_json",
    "write_text",
]
