"""Several processes under torchrun or accelerate launch: joining them, sharing work out, and putting it together.

Each process holds the model and works on its share of the text. What is summed over text is added up over processes,
and what is decided from it (which units leave, the re-fitted weights) is taken from the first process: sums come out
the same everywhere, but two GPUs of different make may solve the same equations differently, and models that drift
apart would not be noticed. Without other processes all of this does nothing.
"""

import datetime
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from secateur.environment import launched_together
from secateur.errors import InputError, SecateurError
from secateur.files import partial_of, working_directory
from secateur.files.input_text import shortened

FAILURES = "secateur/failures"
# Others wait while the first process measures speed or writes a model. One that fails ends them all at once.
TIMEOUT, DEFAULT_MINUTES = "SECATEUR_TIMEOUT", 30.0
LAUNCHER = "TORCHELASTIC_RUN_ID"  # torchrun says so to its workers

_meeting_place: dist.Store | None = None


@contextmanager
def several_processes() -> Iterator[None]:
    """Join the other processes of torchrun while the block runs; nothing happens without it.

    A process that fails leaves without waiting for the others, which then fail as well instead of waiting for it. One
    whose torchrun is gone ends.

    Raises:
        InputError: SECATEUR_TIMEOUT is no number of minutes.
        SecateurError: another process has not answered for so long.
    """
    global _meeting_place
    if not launched_together() or dist.is_initialized():
        yield
        return
    minutes = _minutes()
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(local_number() % torch.cuda.device_count())
    _meeting_place, number, count = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    timeout = datetime.timedelta(minutes=minutes)
    dist.init_process_group(backend, store=_meeting_place, rank=number, world_size=count, timeout=timeout)
    try:
        yield
        barrier()
    except RuntimeError as error:
        if "timed out" not in str(error).lower():
            raise
        raise SecateurError(
            f"another process has not answered for {minutes:g} minutes, so this one ends too; look for what holds it, "
            f"or set {TIMEOUT} to more minutes"
        ) from error
    dist.destroy_process_group()


def _minutes() -> float:
    """How long a process waits for the others."""
    text = os.environ.get(TIMEOUT, str(DEFAULT_MINUTES))
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= 60 * 24 * 7:
        raise InputError(f"{TIMEOUT} is '{shortened(text)}'; give minutes, up to a week")
    return minutes


def _end_with(launcher: int) -> None:
    """End this process when the one that has started it is gone, whatever it is doing. Every write outlives a kill."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def local_number() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def process_count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_number() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes the results."""
    return process_number() == 0


def is_first_to_fail() -> bool:
    """Whether no other process has reported an error yet, so that one line says what is wrong."""
    if not launched_together():
        return True
    try:
        place = _meeting_place or next(dist.rendezvous("env://"))[0]
        return place.add(FAILURES, 1) == 1
    except RuntimeError:
        # The process that keeps the count is gone: it has failed first, and said so.
        return False


def share(windows: Tensor) -> Tensor:
    """This process's share of some windows, (windows, seq): neighbouring ones, as many as others have or one fewer.

    It is empty where there are fewer windows than processes.
    """
    return windows.tensor_split(process_count())[process_number()]


def shared_batches(windows: Tensor, batch_size: int) -> Sequence[Tensor]:
    """This process's share in batches; none where there are fewer windows than processes."""
    own = share(windows)
    return own.split(batch_size) if len(own) else ()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Add a tensor up over all processes, in place. All get the same bits; floats are added in float64."""
    if process_count() > 1:
        total = tensor.double() if tensor.is_floating_point() else tensor
        dist.all_reduce(total)
        tensor.copy_(total)
    return tensor


def all_reduce_together(tensors: Sequence[Tensor]) -> None:
    """`all_reduce_sum` of several tensors of one device, in one message."""
    if process_count() > 1 and tensors:
        total = all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def all_reduce_numbers(*numbers: float) -> list[float]:
    """Add numbers up over all processes."""
    return all_reduce_sum(torch.tensor(numbers, dtype=torch.float64)).tolist() if process_count() > 1 else [*numbers]


def broadcast(tensor: Tensor, of: int = 0) -> Tensor:
    """One process's values, the first's unless `of` says otherwise, of a tensor that all have in the same shape."""
    if process_count() == 1:
        return tensor
    values = tensor.detach().contiguous()
    dist.broadcast(values, of)
    return values


def first_decides(decision: bool) -> bool:
    """The first process's answer to a question that others may answer otherwise, by their clock or disk."""
    return bool(broadcast(torch.tensor(decision)))


def any_process(own: bool) -> bool:
    """Whether something is so in at least one process."""
    return all_reduce_numbers(own)[0] > 0


def barrier() -> None:
    """Go on when all processes have come here."""
    if process_count() > 1:
        dist.all_reduce(torch.zeros(()))


@contextmanager
def shared_directory(
    directory: Path, own: Sequence[str], what: str, *, overwrite: bool = False, inputs: Sequence[str] = ()
) -> Iterator[Path]:
    """`files.working_directory` for several processes: the first holds it, all are told where it is."""
    if not is_first():
        place = directory.resolve() if directory.is_symlink() else directory
        yield partial_of(place) if first_decides(False) else place
        return
    with working_directory(directory, own, what, overwrite=overwrite, inputs=inputs) as place:
        first_decides(place.name == partial_of(directory).name)
        yield place
