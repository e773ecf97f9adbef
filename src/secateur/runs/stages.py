"""The stages of a recipe: measure, score the layers, prune, measure, recover, measure; and what they add up to."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.console import command_text, logging_to
from secateur.data import DataOptions, check_texts, inputs_of
from secateur.distributed import is_first
from secateur.evaluation import load_tasks, task_files
from secateur.exporting import ExportConfig
from secateur.files import expanded, new_directory, write_json, write_text
from secateur.files.result_files import COMMAND, IMPORTANCE, LOG, METRICS, RECIPE, REPORT
from secateur.models import find_model, load
from secateur.models.options import LoadOptions
from secateur.pruning import LayerImportance, PruneConfig, score_layers
from secateur.pruning.prune import needs_importance
from secateur.pruning.search import SearchConfig
from secateur.quantization import QuantizeConfig
from secateur.recovery import RecoverConfig
from secateur.runs.cards import add_figures
from secateur.runs.directory import Run, Stage
from secateur.runs.figures import (
    CUT,
    EVALUATION,
    EXPORT,
    EXPORT_NAMES,
    EXPORTED,
    PUBLISHED,
    ROUNDED,
    SCORED,
    SEARCHED,
    SPARSE,
    SPEED,
    TIMED,
    TRAINED,
    RunResults,
)
from secateur.runs.measurements import AS_FILE, measure, measure_exported, measure_speeds
from secateur.runs.pages import write_report
from secateur.runs.recipe import Recipe
from secateur.runs.searching import search_model
from secateur.runs.steps import (
    check_export,
    export_model,
    prune_model,
    quantize_model,
    recover_model,
    sparsify_model,
)
from secateur.runs.stored import (
    EvaluationFile,
    read_run_file,
)
from secateur.sparsity import SparsifyConfig

logger = logging.getLogger(__name__)

STAGE_PATTERNS = ("measure-*", SCORED, SEARCHED, CUT, SPARSE, TRAINED, ROUNDED, EXPORTED, TIMED)
# What a run writes: its own files, each stage's directory, and what training and search keep beside theirs.
OWN = (
    *(RECIPE, COMMAND, LOG, METRICS, REPORT, *PUBLISHED),
    *(f"{stage}/" for stage in STAGE_PATTERNS),
    *(f"{stage}.partial/" for stage in (SEARCHED, TRAINED)),
    f"{TRAINED}.last-good*/",
)
SCORING_FIELDS = (
    "layer_importance",
    "layer_importance_windows",
    "layer_importance_file",
    "data",
    *DataOptions.model_fields,
    "seqlen",
    "batch_size",
    "seed",
)
IN_TRANSFORMERS = {*LoadOptions.model_fields, "tasks", "limit", "num_fewshot", "include_path", "batch_size"}
SPEED_FIELDS = ("prompt_tokens", "new_tokens", "repeats", "max_seconds", "seed")


def run_recipe(
    recipe: Recipe,
    text: str,
    directory: str | Path,
    *,
    command_line: str,
    overwrite: bool = False,
    shared: Sequence[Path] = (),
) -> dict[str, Any]:
    """Do all stages of a recipe that are not done yet, and write the figures and the report.

    Args:
        recipe: what to do.
        text: the recipe as its author wrote it.
        directory: the run directory, new or of an earlier try.
        command_line: the command that repeats the run.
        overwrite: start afresh: in `DIRECTORY.partial`, which takes the place of the old run when it is finished.
        shared: finished runs whose stages are taken over where they are the same.

    Returns:
        The content of `metrics.json`; of several processes in the first only.

    Raises:
        OutputError: the directory holds something that is not a run, or a model or text that the run reads.
        SecateurError: what the stages raise. What is done stays done.
    """
    _check_inputs(recipe)
    home = expanded(directory)
    with Run.open(home, OWN, overwrite=overwrite, inputs=recipe.inputs) as run:
        pipeline = Pipeline(recipe, run.path, home)
        if not is_first():
            run.execute(pipeline.stages())
            return {}
        write_text(run.path / RECIPE, text)
        write_text(run.path / COMMAND, command_line + "\n")
        with logging_to(run.path / LOG):
            run.execute(pipeline.stages(), shared)
        pipeline.publish()
        metrics = {**pipeline.figures(), "commands": pipeline.commands(command_line), "seconds": run.seconds()}
        write_json(run.path / METRICS, metrics)
        write_report(run.path)
        add_figures(run.path, metrics)
    return metrics


def _check_inputs(recipe: Recipe) -> None:
    """Find a mistyped name before any work is done, or undone: what is no hub's is loaded or checked."""
    find_model(recipe.model)
    checked: list[tuple[str, DataOptions]] = []
    for name, options in recipe.texts:
        if (name, options) not in checked:
            check_texts(name, options=options)
            checked.append((name, options))
    load_tasks(recipe.evaluate)
    if recipe.export is not None:
        check_export(recipe.model, recipe.export, as_it_is=recipe.prune is None)


class Pipeline(RunResults):
    """The stages that do what a recipe says."""

    def stages(self) -> list[Stage]:
        """All stages of the recipe, in order."""
        prune, recover = self.recipe.prune, self.recipe.recover
        stages = [self._measure("original")]
        if prune is not None:
            if needs_importance(prune):
                stages.append(self._score(prune))
            if self.recipe.search is not None:
                stages.append(self._search(self.recipe.search))
            stages += [self._prune(prune), self._measure("pruned", CUT)]
        if self.recipe.sparsify is not None:
            stages += [self._sparsify(self.recipe.sparsify), self._measure("sparse", SPARSE)]
        if recover is not None:
            stages += [self._recover(recover), self._measure("recovered", TRAINED)]
        if self.recipe.quantize is not None:
            stages += [self._quantize(self.recipe.quantize), self._measure("quantised", ROUNDED)]
        if self.recipe.export is not None:
            stages.append(self._export(self.recipe.export))
            if self.measures_export:
                stages.append(self._measure_exported())
            elif self.recipe.export.format == "gguf":
                logger.info("The exported file is not measured, which takes a package: pip install 'secateur[gguf]'")
        if self.recipe.evaluate.speed:
            stages.append(self._time())
        return stages

    def _measure(self, name: str, needs: str | None = None) -> Stage:
        config, samples = self.recipe.evaluate, self.recipe.samples

        def work(directory: Path) -> None:
            source = next(source for source in self.sources() if source.name == name)
            figures = measure(source, config, samples.prompts, samples.max_new_tokens)
            _write(directory, EVALUATION, figures)

        settings = config.model_dump(exclude={"speed", *SPEED_FIELDS})
        return Stage(
            self.measured(name).name,
            {"model": self.recipe.model, **settings, "samples": samples.model_dump()},
            work,
            inputs=(
                *inputs_of(*config.data, options=config),
                *task_files(config),
                *([] if needs else [self.recipe.model]),
            ),
            needs=(needs,) if needs else (),
        )

    def _score(self, config: PruneConfig) -> Stage:
        def work(directory: Path) -> None:
            model, tokenizer = load(self.recipe.model, **config.load_arguments())
            importance = score_layers(model, tokenizer, config)
            _write(directory, IMPORTANCE, importance.to_dict())

        settings = {name: getattr(config, name) for name in SCORING_FIELDS}
        return Stage(
            SCORED,
            {"model": self.recipe.model, **settings, **config.load_arguments()},
            work,
            inputs=(self.recipe.model, *inputs_of(config.data, options=config), *_given(config.layer_importance_file)),
        )

    def _search(self, config: SearchConfig) -> Stage:
        def work(directory: Path) -> None:
            words = ("secateur", "search", self.recipe.model, "-o", str(self.home / SEARCHED))
            command_line = command_text(*words, config=config)
            # Overwriting, a search with other settings is dropped; one with the same goes on.
            search_model(self.recipe.model, directory, config, command_line=command_line, overwrite=True)

        return Stage(
            SEARCHED,
            {"model": self.recipe.model, **config.model_dump()},
            work,
            inputs=(self.recipe.model, *inputs_of(config.data, options=config), *_given(config.times_file)),
        )

    def _prune(self, settings: PruneConfig) -> Stage:
        searched = self.recipe.search is not None

        def work(directory: Path) -> None:
            config, recorded = (self.planned(settings, root / SEARCHED) for root in (self.path, self.home))
            words = ("secateur", "prune", self.recipe.model, "-o", str(self.home / CUT))
            scores = self.importance()
            importance = LayerImportance.of(scores) if scores is not None else None
            prune_model(
                self.recipe.model,
                directory,
                config,
                command_line=command_text(*words, config=recorded),
                overwrite=True,
                layer_importance=importance,
                plan_name=recorded.plan,
            )

        return Stage(
            CUT,
            {"model": self.recipe.model, **settings.model_dump()},
            work,
            inputs=(
                self.recipe.model,
                *inputs_of(settings.data, options=settings),
                *_given(settings.plan, settings.times_file),
            ),
            needs=(*([SCORED] if needs_importance(settings) else []), *([SEARCHED] if searched else [])),
        )

    def _sparsify(self, config: SparsifyConfig) -> Stage:
        start, needs, inputs = self._cut_before(SPARSE)

        def work(directory: Path) -> None:
            words = ("secateur", "sparsify", self._home_of(start), "-o", str(self.home / SPARSE))
            command_line = command_text(*words, config=config)
            sparsify_model(start, directory, config, command_line=command_line, overwrite=True)

        return Stage(
            SPARSE,
            {"model": self.recipe.model, **config.model_dump()},
            work,
            inputs=(*inputs_of(config.data, options=config), *inputs),
            needs=needs,
        )

    def _cut_before(self, stage: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """What a stage starts from: the model, the stage that made it, or itself as an input from outside."""
        done = [name for name, cut in ((CUT, self.recipe.prune), (SPARSE, self.recipe.sparsify)) if cut is not None]
        before = done[: done.index(stage)] if stage in done else done
        return (
            (str(self.path / before[-1]), (before[-1],), ())
            if before
            else (self.recipe.model, (), (self.recipe.model,))
        )

    def _home_of(self, model: str) -> str:
        """What records call a model: one that a stage has made is where the finished run will have it."""
        path = Path(model)
        return str(self.home / path.name) if path.parent == self.path else model

    def _recover(self, config: RecoverConfig) -> Stage:
        start, needs, outside = self._cut_before(TRAINED)

        def work(directory: Path) -> None:
            base = self._home_of(start)
            words = ("secateur", "recover", base, "-o", str(self.home / TRAINED))
            command_line = command_text(*words, config=config)
            renamed = base if base != start else None
            # Overwriting, a training with other settings is dropped; one with the same goes on.
            recover_model(start, directory, config, command_line=command_line, overwrite=True, base_name=renamed)

        texts = inputs_of(config.data, *config.extra_eval, options=config)
        inputs = [*texts, *_given(config.teacher), *outside]
        return Stage(
            TRAINED,
            {"model": self.recipe.model, **config.model_dump()},
            work,
            inputs=tuple(inputs),
            needs=needs,
        )

    def _quantize(self, config: QuantizeConfig) -> Stage:
        start, needs, outside = self._cut_before(ROUNDED)
        if self.recipe.recover is not None:
            start, needs = str(self.path / TRAINED), (TRAINED,)

        def work(directory: Path) -> None:
            words = ("secateur", "quantize", self._home_of(start), "-o", str(self.home / ROUNDED))
            command_line = command_text(*words, config=config)
            quantize_model(start, directory, config, command_line=command_line, overwrite=True)

        return Stage(
            ROUNDED,
            {"model": self.recipe.model, **config.model_dump()},
            work,
            inputs=(*inputs_of(config.data, options=config), *outside),
            needs=needs,
        )

    def _export(self, config: ExportConfig) -> Stage:
        _, needs, outside = self._cut_before(EXPORTED)
        rounded = (ROUNDED,) if self.recipe.quantize is not None else ()
        trained = self.recipe.recover is not None

        def work(directory: Path) -> None:
            last = self.sources()[-1]
            adapter = str(last.adapter) if last.adapter else None
            with new_directory(directory, overwrite=True) as staging:
                with_adapter = config.model_copy(update={"adapter": adapter})
                result = export_model(last.model, staging / EXPORT_NAMES[config.format], with_adapter)
                write_json(staging / EXPORT, result.to_dict())

        return Stage(
            EXPORTED,
            {"model": self.recipe.model, **config.model_dump()},
            work,
            inputs=(*(inputs_of(config.data, options=config) if config.data is not None else []), *outside),
            needs=(*needs, *((TRAINED,) if trained else ()), *rounded),
        )

    def _measure_exported(self) -> Stage:
        config = self.recipe.evaluate

        def work(directory: Path) -> None:
            if not is_first():
                return
            last = self.sources()[-1]
            record = read_run_file(self.path / EXPORTED / EXPORT)
            figures = read_run_file(self.measured(last.name) / EVALUATION, EvaluationFile)
            file = self.path / EXPORTED / EXPORT_NAMES["gguf"]
            _write(directory, EVALUATION, measure_exported(file, record, last, figures, config))

        return Stage(
            self.measured(AS_FILE).name,
            {"model": self.recipe.model, **config.model_dump(exclude=IN_TRANSFORMERS)},
            work,
            inputs=tuple(inputs_of(*config.data, options=config)),
            needs=(EXPORTED,),
        )

    def _time(self) -> Stage:
        config = self.recipe.evaluate

        def work(directory: Path) -> None:
            speeds = measure_speeds(self.sources(), config)
            _write(directory, SPEED, speeds)

        settings = {name: getattr(config, name) for name in SPEED_FIELDS}
        recipe = self.recipe
        cuts = ((CUT, recipe.prune), (SPARSE, recipe.sparsify), (TRAINED, recipe.recover), (ROUNDED, recipe.quantize))
        return Stage(
            TIMED,
            {"model": self.recipe.model, **settings, **config.load_arguments()},
            work,
            inputs=(self.recipe.model,),
            needs=tuple(name for name, section in cuts if section is not None),
        )


def _given(*names: str | None) -> list[str]:
    """The names of files and models that are given."""
    return [name for name in names if name]


def _write(directory: Path, name: str, figures: Any) -> None:
    """Make a stage's directory with one file; of several processes the first does."""
    if is_first():
        with new_directory(directory, overwrite=True) as staging:
            write_json(staging / name, figures)
