"""A model directory to the Hugging Face hub: what goes there, under which conditions, and what stays."""

import fnmatch
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from secateur.data.hub import TIMEOUT_SECONDS, in_time
from secateur.errors import ModelError, OptionError, OutputError
from secateur.files import expanded, is_as_written
from secateur.files.input_text import shortened
from secateur.files.result_files import CARD, COMMAND, IMPORTANCE, LOG, PLAN, QUANTIZATION, SETTINGS
from secateur.handover.card import card_text
from secateur.handover.lineage import Lineage, read_lineage
from secateur.handover.loading import ADAPTER
from secateur.handover.plain import name_of
from secateur.handover.steps import TRAINING
from secateur.models.json_file import read_object
from secateur.models.weight_files import read_header, weight_files
from secateur.models.zeros_record import RECORD

logger = logging.getLogger(__name__)

CONFIG, ADAPTER_WEIGHTS = "config.json", "adapter_model.safetensors"
LONGRANGE_WEIGHTS, LONGRANGE_FIGURES = "best.safetensors", "results.json"
# Of what lies beside the weights: what programs read, and what tells of the model.
SENT = (
    *("*.json", "*.py", "*.jinja", "*.model", "*.txt", "*.md", "*.png"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "additional_chat_templates/*.jinja"),
)
# These say where things stand on this machine, or are of a training that goes on.
KEPT_HERE = (
    *(".*", COMMAND, LOG, "*.lock", "*.partial", "trainer_state.json", "training_args*", "optimizer*", "scheduler*"),
    *("rng_state*", "scaler*", "token", "token.txt", "*_token.txt", "*secret*", "*credential*", "*password*"),
)
WITH_PLACES = (PLAN, QUANTIZATION, IMPORTANCE, RECORD, TRAINING, LONGRANGE_FIGURES, SETTINGS)


@dataclass(frozen=True)
class Upload:
    """What goes to the hub.

    Attributes:
        directory: of the model.
        repository: its id on the hub.
        files: names below the directory, with sizes in bytes.
        left: names of what stays.
        lineage: of the model, where secateur made it.
    """

    directory: Path
    repository: str
    files: dict[str, int]
    left: list[str]
    lineage: Lineage | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def upload_of(model: str | Path, repository: str) -> Upload:
    """Look at a model directory before anything of it leaves the machine.

    Args:
        model: the directory: of a model, an adapter, or a finished run of longrange.
        repository: `USER/NAME`.

    Raises:
        InputError: the repository's name cannot be one.
        ModelError: the directory holds no finished model, or a link to what lies elsewhere.
    """
    _require_repository(repository)
    directory = expanded(model)
    if not directory.is_dir():
        what = "a file" if directory.is_file() else "no directory here"
        raise ModelError(f"{model} is {what}; push takes the directory of a model or an adapter")
    weights = _finished_weights(directory)
    names = [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file()]
    sent = [name for name in names if name in weights or (_is_beside(name) and not name.endswith(".safetensors"))]
    _require_within(directory, [name for name in sent if name not in weights])
    sizes = {name: (directory / name).stat().st_size for name in sent}
    left = [name for name in names if name not in sizes]
    return Upload(directory, repository, sizes, left, read_lineage(directory))


def push(upload: Upload, *, private: bool = False, revision: str | None = None, message: str | None = None) -> str:
    """Send a model to the hub, into a repository that is made where it is not there.

    The token is that of the hub's own login.

    Args:
        upload: what goes there.
        private: whether a new repository is for its owner alone.
        revision: a branch, made where it is not there; by default the main one.
        message: of the commit.

    Returns:
        Where it is.

    Raises:
        OutputError: nobody is logged in, or the hub cannot be reached or refuses.
    """
    repository, hub = upload.repository, HfApi()
    if get_token() is None:
        raise OutputError("nobody is logged in to the hub; run: hf auth login")
    with _hub_errors(repository):
        _require_reachable(hub, repository)
        hub.create_repo(repository, private=True if private else None, exist_ok=True)
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        with staged(upload) as folder:
            done = hub.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message or f"Upload {upload.directory.resolve().name} with secateur",
            )
    return str(getattr(done, "repo_url", None) or f"https://huggingface.co/{repository}")


def _require_repository(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise OptionError(f"{shortened(repository)!r} is no name of a repository: {shortened(error, 200)}") from error
    if "/" not in repository:
        raise OptionError(f"{repository} is not the id of a repository; give USER/{repository}")


def _finished_weights(directory: Path) -> list[str]:
    """The names of the files that hold a directory's weights, each of them whole. Raises `ModelError`."""
    if directory.name.endswith(".partial"):
        raise ModelError(f"{directory} is unfinished work; repeat the command that made it, and push what it writes")
    if (directory / CONFIG).is_file():
        read_object(directory / CONFIG)
        files = weight_files(directory)
    elif (directory / ADAPTER).is_file():
        read_object(directory / ADAPTER)
        files = [directory / ADAPTER_WEIGHTS]
    elif all((directory / name).is_file() for name in (SETTINGS, LONGRANGE_WEIGHTS, LONGRANGE_FIGURES)):
        files = [directory / LONGRANGE_WEIGHTS]
    else:
        below = _models_below(directory)
        raise ModelError(f"{directory} holds no finished model: neither {CONFIG} nor {ADAPTER}{below}")
    for file in files:
        if not file.is_file():
            raise ModelError(f"{directory} holds no finished model: {file.name} is missing")
        read_header(file)
    index = directory / "model.safetensors.index.json"
    return [file.name for file in files] + ([index.name] if index.is_file() else [])


def _require_within(directory: Path, names: list[str]) -> None:
    """Raise `ModelError` where a file beside the weights is a link to another place than the hub's own cache."""
    home = directory.resolve()
    cache = home.parent.parent / "blobs"  # of models--USER--NAME/snapshots/REVISION
    for name in names:
        target = (directory / name).resolve()
        if not target.is_relative_to(home) and not (home.parent.name == "snapshots" and target.is_relative_to(cache)):
            raise ModelError(
                f"{directory / name} is a link to what lies elsewhere; put the file itself there, or remove the link"
            )


def _models_below(directory: Path) -> str:
    below = [entry.name for entry in sorted(directory.iterdir()) if (entry / CONFIG).is_file()]
    return f"; push one of the models in it: {', '.join(below)}" if below else ""


def _is_beside(name: str) -> bool:
    kept = any(fnmatch.fnmatchcase(part, pattern) for part in name.split("/") for pattern in KEPT_HERE)
    patterns = [pattern for pattern in SENT if pattern.count("/") == name.count("/")]
    return not kept and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def staged(upload: Upload) -> Iterator[Path]:
    """A directory that holds what goes to the hub: the files themselves, and anew what names this machine's places."""
    with tempfile.TemporaryDirectory(prefix="secateur-push-") as temporary:
        folder = Path(temporary)
        for name in upload.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            anew = _anew(upload, name)
            if anew is not None:
                (folder / name).write_text(anew, encoding="utf-8")
                continue
            try:
                (folder / name).symlink_to((upload.directory / name).resolve())
            except OSError:  # where links need rights
                shutil.copyfile(upload.directory / name, folder / name)
        yield folder


def _anew(upload: Upload, name: str) -> str | None:
    """The text that goes to the hub instead of a file's own; None where it goes as it is."""
    directory, lineage = upload.directory, upload.lineage
    if name == CARD and lineage is not None and lineage.steps and is_as_written(directory, CARD):
        return card_text(directory, lineage, upload.repository)
    if name == ADAPTER and not (directory / CONFIG).is_file():
        return _adapter_settings(directory, lineage)
    if name in WITH_PLACES:
        return json.dumps(_without_places(read_object(directory / name)), indent=2, ensure_ascii=False) + "\n"
    return None


def _adapter_settings(directory: Path, lineage: Lineage | None) -> str | None:
    """An adapter's settings, its model named by its hub id where it is known, else by its name."""
    settings = read_object(directory / ADAPTER)
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or name_of(base) == base:
        return None
    known = lineage.base.hub_id if lineage is not None and len(lineage.steps) == 1 else None
    settings["base_model_name_or_path"] = known or name_of(base)
    if known is None:
        logger.warning("The adapter needs the model %s, which others do not have; push that too, or merge", base)
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return name_of(value) if isinstance(value, str) else value


def _require_reachable(hub: HfApi, repository: str) -> None:
    """Ask the hub for the repository: what it says does not matter, that it answers within seconds does."""
    try:
        in_time(lambda: hub.model_info(repository, timeout=TIMEOUT_SECONDS, expand=["sha"]))
    except RepositoryNotFoundError:
        return


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise OutputError("the hub is not to be asked; unset HF_HUB_OFFLINE, or look with --dry-run") from error
    except (HTTPError, OSError, ValueError) as error:
        reason = shortened(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, 200)
        raise OutputError(
            f"{repository} was not pushed: the hub cannot be reached or refuses ({reason}); try again, or look with "
            "--dry-run"
        ) from error
