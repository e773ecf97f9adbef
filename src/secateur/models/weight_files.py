"""The safetensors files that Transformers reads of a model directory, and what their headers say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from secateur.errors import ModelError
from secateur.models.json_file import read_object, shown

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
# A directory with such a name in it is read by another loader, which passes over what it does not ask for.
RANK_LOCAL = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
# Tables that older checkpoints hold and that follow from the config: of rotary positions, and GPT-NeoX's causal mask.
# Transformers passes over inv_freq by itself, and over those of GPT-NeoX in its own classes.
DERIVED = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.attention\.(bias|masked_bias)$")
FORMATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a header describes it: `format` is safetensors' name of its number format, `F16` for example."""

    file: Path
    format: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


def weight_files(directory: Path, needless: re.Pattern[str] | None = None) -> list[Path]:
    """The safetensors files that hold a directory's model; what else lies there is not read.

    Args:
        directory: of the model.
        needless: how names of weights begin that are not used: files that hold nothing else need not be there.

    Raises:
        ModelError: there are none, they are pickled, or the index names a file that is not there or is not a plain
            `*.safetensors` name.
    """
    local = next((file for file in sorted(directory.glob("shard-*")) if RANK_LOCAL.fullmatch(file.name)), None)
    if local is not None:
        raise ModelError(
            f"{directory} holds a checkpoint of several processes ({local.name}); write it as one model with "
            "save_pretrained first"
        )
    shards = sorted(set(weight_map(directory, needless).values())) if (directory / INDEX).is_file() else []
    if (directory / WEIGHTS).is_file():  # an index beside it is not used
        return [directory / WEIGHTS]
    if not shards:
        _refuse_pickles(directory)
        raise ModelError(
            f"{directory} has a config.json but no {WEIGHTS} and no {INDEX}; its weights have to be there under "
            "these names"
        )
    return [directory / name for name in shards]


def stored_tensors(directory: Path, needless: re.Pattern[str] | None = None) -> dict[str, StoredTensor]:
    """What the weight files of a directory hold, by name, read from their headers.

    Args:
        directory: of the model.
        needless: as of `weight_files`.

    Raises:
        ModelError: as `weight_files`; or a file is damaged, a tensor is in two files, or the index and the files do
            not say the same.
    """
    tensors: dict[str, StoredTensor] = {}
    files = weight_files(directory, needless)
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise ModelError(
                    f"{directory} holds {name} twice, in {tensors[name].file.name} and in {file.name}; restore its "
                    "files from their source"
                )
            tensors[name] = tensor
    if (directory / INDEX).is_file() and files != [directory / WEIGHTS]:
        _compare_with_index(directory, weight_map(directory, needless), tensors)
    if not tensors:
        raise ModelError(f"{directory} holds no weights: {files[0].name} is empty")
    return tensors


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. Raises `ModelError` where it is cut short or cannot be read."""
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
            return {
                name: StoredTensor(file, str(part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{file} is truncated or corrupted ({shown(error, 200)}); download it again or restore it from its source"
        ) from error


def unused_shards(directory: Path) -> list[str]:
    """Files that an index names and that are not read, because the weights stand in one file as well."""
    if not (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file():
        return []
    return sorted(set(weight_map(directory).values()) - {WEIGHTS})


def stored_dtype(tensors: Mapping[str, StoredTensor]) -> str | None:
    """The number format that most of the weights have, `float16` for example; None where none is an ordinary one."""
    elements: dict[str, int] = {}
    for tensor in tensors.values():
        if tensor.format in FORMATS:
            elements[FORMATS[tensor.format]] = elements.get(FORMATS[tensor.format], 0) + tensor.elements
    return max(elements, key=lambda name: elements[name], default=None)


def weight_map(directory: Path, needless: re.Pattern[str] | None = None) -> dict[str, str]:
    """In which file each weight is, by the index of a directory; of files that need not be there, those that are.

    Raises:
        ModelError: as `weight_files`.
    """
    file = directory / INDEX
    index = read_object(file)
    found, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{file} has no weight_map; restore it from its source")
    for name, shard in found.items():
        if not (isinstance(shard, str) and _is_plain(shard)):
            raise ModelError(
                f"{file} is wrong: {shown(name, 80)} is said to be in {shown(shard, 80)!r}; an index may name "
                "*.safetensors files of its own directory only"
            )
    absent = {shard for shard in set(found.values()) if not (directory / shard).is_file()}
    lacking = {name: shard for name, shard in found.items() if shard in absent}
    missing = sorted({shard for name, shard in lacking.items() if needless is None or not needless.match(name)})
    if missing:
        listed = ", ".join(shown(name, 80) for name in missing[:5])
        raise ModelError(f"{directory} lacks {listed}, which its index names; copy the missing files")
    if not isinstance(metadata, dict):
        raise ModelError(f"{file} has no metadata; restore it from its source")
    return {name: shard for name, shard in found.items() if name not in lacking}


def _is_plain(name: str) -> bool:
    """Whether it is the name of a safetensors file, without a way to it."""
    return re.fullmatch(r"[^/\\\0:]+\.safetensors", name) is not None


def _compare_with_index(directory: Path, index: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    for name, shard in index.items():
        if DERIVED.search(name):
            continue
        if name not in tensors:
            raise ModelError(
                f"{directory} lacks {shown(name, 80)}: its index says {shown(shard, 80)} holds it, and it does not; "
                "restore the files from their source"
            )
        if tensors[name].file.name != shard:
            raise ModelError(
                f"{directory / INDEX} is wrong: it says {shown(name, 80)} is in {shown(shard, 80)}, and it is in "
                f"{tensors[name].file.name}"
            )
    unnamed = sorted(name for name in set(tensors) - set(index) if not DERIVED.search(name))
    if unnamed:
        raise ModelError(
            f"{directory / INDEX} is wrong: it does not name {shown(unnamed[0], 80)}, which is in "
            f"{tensors[unnamed[0]].file.name}"
        )


def _refuse_pickles(directory: Path) -> None:
    pickles = sorted(file.name for pattern in PICKLES for file in directory.glob(pattern))
    if pickles:
        raise ModelError(
            f"{directory} holds its weights as a pickle ({pickles[0]}), which can run any code when it is opened; "
            "convert it to safetensors on a machine that trusts it (save_pretrained writes them) and use that"
        )
