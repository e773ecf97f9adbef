"""The JSON files that secateur writes, as pydantic models: what `docs/json.md` and its JSON Schema are made of.

`runs.stored` has what of a run's files is read again, and takes those of earlier versions. Here stands all that this
version writes and others may read; the tests hold files of real commands against it.
"""

from secateur.runs.written.base import Written
from secateur.runs.written.files import FILES

__all__ = ["FILES", "Written"]
