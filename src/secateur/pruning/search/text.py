"""The text of a search: what its cuts are fitted to, what they are judged by, and what prices are found on."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.calibration.windows import Calibration
from secateur.data import Corpus, token_windows
from secateur.distributed import process_count
from secateur.pruning.scoring import spread
from secateur.pruning.search.config import SearchConfig

LEAST_MEASURED = 4
logger = logging.getLogger(__name__)


@dataclass
class SearchText:
    """Windows of tokens, (windows, seq) each.

    Attributes:
        fitted: what the cuts of the search are fitted to.
        judged: what says which round's cut is best.
        others: what the prices of halves are found on, some of it in each round.
    """

    fitted: Tensor
    judged: Tensor
    others: Tensor

    def priced(self, number: int) -> Tensor:
        """As many windows as judge, others in each round while there are any."""
        count = len(self.judged)
        first = (number - 1) % (len(self.others) // count) * count
        return self.others[first : first + count]


def search_text(
    tokenizer: PreTrainedTokenizerBase | None, calibration: Calibration, config: SearchConfig
) -> SearchText:
    """The calibration's windows and others of its corpus, shared out. Warns where the text is short."""
    fitted, others = _parts(tokenizer, calibration, config)
    judged = spread(others, config.measured_windows)
    if torch.equal(fitted, judged):
        logger.warning("The text has one window only: the cuts are measured on what they are fitted to")
    elif len(judged) < config.measured_windows:
        logger.warning(
            "%d windows are to be measured on, and the text has %d left: these are used",
            config.measured_windows,
            len(judged),
        )
    left = _without(others, judged)
    if len(left) < len(judged):
        left = judged
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(config.seed))
    return SearchText(fitted, judged, left[order])


def _parts(
    tokenizer: PreTrainedTokenizerBase | None, calibration: Calibration, config: SearchConfig
) -> tuple[Tensor, Tensor]:
    """Windows to fit the search's cuts to, half of the calibration's, and windows of the corpus to measure them on.

    Where the corpus has none beside those of the calibration, every other one of them is held out.
    """
    text = calibration.windows[: len(calibration.windows) - calibration.own]
    others = _others(tokenizer, calibration.corpus, text, config)
    if len(others) >= min(LEAST_MEASURED, len(text)):
        return calibration.windows[::2], others
    if len(text) == 1:
        return calibration.windows, text
    return torch.cat([text[::2], calibration.windows[len(text) :]]), text[1::2]


def _others(tokenizer: PreTrainedTokenizerBase | None, corpus: Corpus, text: Tensor, config: SearchConfig) -> Tensor:
    """The windows of a corpus beside those of the calibration; of a large one as many as the rounds can use."""
    if not corpus.large:
        return _without(token_windows(tokenizer, corpus, config.seqlen), text)
    count = len(text) + config.measured_windows * (config.rounds + 1)
    found = token_windows(tokenizer, corpus, config.seqlen, limit=count, seed=config.seed)
    others = _without(found, text)
    # The same seed draws the calibration's windows again. Where it does not, for want of text, windows that begin
    # elsewhere would hold some of what is fitted to.
    return others if len(others) == len(found) - len(text) else others[:0]


def _without(windows: Tensor, taken: Tensor) -> Tensor:
    """The windows that are not among those taken."""
    known = {tuple(window) for window in taken.tolist()}
    return windows[[tuple(window) not in known for window in windows.tolist()]]


def half_of(windows: Tensor) -> Tensor:
    """Half of the windows, but one for each process at least."""
    return windows[: max(process_count(), -(-len(windows) // 2))]
