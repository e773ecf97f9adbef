"""A cut of a model larger than memory as a step: what is done of it is kept beside its output, and gone on from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.calibration.walks import KEPT, NOTHING_KEPT, Walks
from secateur.calibration.windows import StreamedConfig
from secateur.data import load_corpus
from secateur.distributed import is_first
from secateur.errors import SecateurError
from secateur.files import expanded, require_free
from secateur.files.unfinished import Unfinished, contents_of
from secateur.models.fingerprint import weights_fingerprint
from secateur.models.streamed import keep_layers_in, streamed

logger = logging.getLogger(__name__)
NO_MATTER = {"device", "device_map", "stream", "offload"}


class UnfinishedCut(Unfinished):
    """The layers of a cut that are done."""

    def __init__(self, output: Path, result: str) -> None:
        super().__init__(output, "cut", [KEPT], result)

    @property
    def begun(self) -> bool:
        return next(self.path.glob(KEPT), None) is not None


@dataclass
class StreamedCut:
    """A cut at work.

    Attributes:
        walks: what is kept of it.
        unfinished: where; None of a model in memory, of which nothing is kept.
    """

    walks: Walks = NOTHING_KEPT
    unfinished: UnfinishedCut | None = None

    def finish(self) -> None:
        """Note that the output that appears from now on is this cut's."""
        if self.unfinished is not None:
            self.unfinished.finish()


def may_replace(output: Path, result: str, overwrite: bool) -> bool:
    """Whether what stands at an output may go: the user says so, or it is of this work, which a kill has left there."""
    return overwrite or UnfinishedCut(expanded(output), result).is_finished


@contextmanager
def going_on(
    model: PreTrainedModel, output: Path, result: str, config: StreamedConfig, overwrite: bool, inputs: list[str | None]
) -> Iterator[StreamedCut]:
    """Keep what is done of the cut of a streamed model while the block runs, and drop it when the block has ended.

    Args:
        model: the model, before the cut.
        output: the new model directory.
        result: a file of it that such a cut alone writes.
        config: how it is cut.
        overwrite: drop what is kept of a cut with other settings.
        inputs: more files that the cut depends on.

    Raises:
        InputError: another cut was stopped there.
        OutputError: the output holds a result of other work.
    """
    if not streamed(model):
        if not overwrite and is_first():
            require_free(output)  # a finished streamed cut makes way for no other one
        yield StreamedCut()
        return
    unfinished = UnfinishedCut(output, result)
    unfinished.open({**_settings(model, config, inputs), "work": result}, overwrite)
    keep_layers_in(model, unfinished.path)
    if unfinished.begun:
        logger.info("Going on with what is done in %s", unfinished.path)
    try:
        yield StreamedCut(Walks(unfinished.path), unfinished)
    except KeyboardInterrupt:
        unfinished.tell()
        raise
    except SecateurError:
        if not unfinished.begun:
            unfinished.remove()
        raise
    unfinished.remove()


def _settings(model: PreTrainedModel, config: StreamedConfig, inputs: list[str | None]) -> dict[str, Any]:
    """Everything that changes the result."""
    text = load_corpus(config.data, "train", config).fingerprint if config.needs_text else ""
    return {
        **config.model_dump(exclude=NO_MATTER),
        "model": weights_fingerprint(model),
        "text": text,
        **contents_of(inputs),
    }
