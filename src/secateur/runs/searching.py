"""A search for the plan of a cut as a step: model in, a directory with the plan out, going on where it was stopped."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur import files
from secateur.data import check_texts, inputs_of, load_corpus
from secateur.distributed import barrier, is_first
from secateur.errors import SecateurError
from secateur.files import expanded, require_free, write_json
from secateur.files.result_files import PLAN, STRATEGY
from secateur.files.unfinished import Unfinished, contents_of
from secateur.models import load
from secateur.models.checks import require_in_memory
from secateur.models.fingerprint import weights_fingerprint
from secateur.pruning.search import Round, SearchConfig, SearchResult, check_rounds, search
from secateur.pruning.targets import measure_of
from secateur.report import pruning_strategy, search_plot
from secateur.runs.steps import logged_work

ROUNDS, PICTURE = "search.json", "search.png"
logger = logging.getLogger(__name__)


class UnfinishedSearch(Unfinished):
    """The rounds of a search that are done."""

    def __init__(self, output: Path) -> None:
        super().__init__(output, "search", [ROUNDS], ROUNDS)

    @property
    def begun(self) -> bool:
        return (self.path / ROUNDS).is_file()

    def rounds(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SearchConfig) -> list[Round]:
        """What is done. Raises `InputError` where its file is damaged, or of another model."""
        file = self.path / ROUNDS
        if not self.begun:
            return []
        with self.readable(file):
            rounds = TypeAdapter(list[Round]).validate_json(file.read_bytes())
            check_rounds(model, config, rounds, measure_of(model, tokenizer, config))
            return rounds

    def keep(self, rounds: list[Round]) -> None:
        if is_first():
            write_json(self.path / ROUNDS, [done.to_dict() for done in rounds])


def search_model(
    name: str, output: Path, config: SearchConfig, *, command_line: str, overwrite: bool = False
) -> SearchResult:
    """Load a model, search for the plan of a cut, write the plan with the rounds that led to it.

    A search that was stopped goes on after its last round.

    Args:
        name: a hub id, directory, `.gguf` file or `smollm2-135m`.
        output: the new directory.
        config: what may be cut, and how long to search.
        command_line: the command that repeats this.
        overwrite: replace what `output` holds, and drop a stopped search with other settings.

    Raises:
        SecateurError: what `load` and `search` raise; another search was stopped there.
    """
    free = overwrite or UnfinishedSearch(expanded(output)).is_finished
    target = require_free(output, free, [name, *inputs_of(config.data, options=config), config.times_file])
    check_texts(config.data, options=config)
    with logged_work(target, command_line) as records:
        model, tokenizer = load(name, **config.load_arguments())
        require_in_memory(model)
        unfinished = UnfinishedSearch(target)
        if is_first():
            unfinished.open(_settings(config, weights_fingerprint(model)), overwrite)
        barrier()
        rounds = unfinished.rounds(model, tokenizer, config)
        if rounds:
            logger.info("Going on after round %d", len(rounds))
        try:
            result = search(model, tokenizer, config, done=rounds, keep=unfinished.keep)
        except KeyboardInterrupt:
            unfinished.tell()
            raise
        except SecateurError:
            if is_first() and not unfinished.begun:
                unfinished.remove()
            raise
        if is_first():
            unfinished.finish()
            _write(target, result, records, free)
            unfinished.remove()
        barrier()
    return result


def _settings(config: SearchConfig, model: str) -> dict[str, Any]:
    """What the rounds depend on. More rounds than before, or more patience, go on with those that are done."""
    corpus = load_corpus(config.data, "train", config)
    settings = config.model_dump(exclude={"rounds", "patience", "device", "device_map"})
    return {**settings, **contents_of([config.times_file]), "model": model, "text": corpus.fingerprint}


def _write(target: Path, result: SearchResult, records: Mapping[str, object], overwrite: bool) -> None:
    plan, found = result.plan.to_dict(), result.to_dict()
    with files.new_directory(target, overwrite) as staging:
        write_json(staging / PLAN, plan)
        write_json(staging / ROUNDS, found)
        files.write_bytes(staging / STRATEGY, pruning_strategy(plan))
        files.write_bytes(staging / PICTURE, search_plot(found))
        for file, content in records.items():
            files.write_extra(staging / file, content)
