"""What the stages of a recipe add up to: models, figures, the texts behind them, commands, artefacts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.console import command_text
from secateur.environment import machine, versions
from secateur.exporting.config import Format
from secateur.exporting.ggml import has_llama_cpp
from secateur.files import write_bytes, write_json
from secateur.files.result_files import IMPORTANCE, PLAN, QUANTIZATION, STRATEGY
from secateur.pruning import PruneConfig
from secateur.pruning.prune import needs_importance
from secateur.report import pruning_strategy, sparsity_map
from secateur.runs.measurements import AS_FILE, Source, amount_of
from secateur.runs.recipe import Recipe
from secateur.runs.steps import ZEROS, ZEROS_MAP, where_it_opens
from secateur.runs.stored import (
    EvaluationFile,
    ImportanceFile,
    PlanFile,
    RoundingFile,
    TrainingFile,
    ZerosFile,
    read_run_file,
    require_same_layers,
)

EVALUATION, SPEED, RECOVERY = "evaluation.json", "speed.json", "recovery.json"
EXPORT = "export.json"
EXPORT_NAMES: dict[Format, str] = {"gguf": "model.gguf", "nemotron-nas": "model"}
SCORED, SEARCHED, CUT, SPARSE = "importance", "search", "prune", "sparsify"
TRAINED, ROUNDED, EXPORTED, TIMED = "recover", "quantize", "export", "speed"
ADAPTER_OPENS = "Opens in Transformers with PEFT; secateur merge makes one model of both"
PUBLISHED = (IMPORTANCE, PLAN, STRATEGY, ZEROS, ZEROS_MAP, QUANTIZATION)


@dataclass(frozen=True)
class RunResults:
    """A recipe in a run directory, and what its stages have left there.

    Attributes:
        recipe: what is done.
        path: where it is done.
        home: what records and commands call that place: where it will be once the run is finished.
    """

    recipe: Recipe
    path: Path
    home: Path

    def sources(self) -> list[Source]:
        """The models that the recipe gives, those of its stages that are done."""
        sources = [Source("original", self.recipe.model)]
        if self.recipe.prune is not None:
            sources.append(Source("pruned", str(self.path / CUT)))
        if self.recipe.sparsify is not None:
            sources.append(Source("sparse", str(self.path / SPARSE)))
        if self.recipe.recover is not None:
            trained = self.path / TRAINED
            is_adapter = (trained / "adapter_config.json").is_file()
            base = sources[-1].model
            sources.append(Source("recovered", base, trained) if is_adapter else Source("recovered", str(trained)))
        if self.recipe.quantize is not None:
            sources.append(Source("quantised", str(self.path / ROUNDED)))
        return sources

    def where_it_opens(self) -> str:
        """One line that says which engines open the last model; empty where the recipe makes none.

        Raises:
            ModelError: the model's config is damaged.
        """
        last = self.sources()[-1]
        if last.adapter is not None:
            return ADAPTER_OPENS
        return "" if last.model == self.recipe.model else where_it_opens(last.model)

    @property
    def measures_export(self) -> bool:
        """Whether the last model's file is measured too: in llama.cpp, where that is installed."""
        recipe = self.recipe
        return recipe.export is not None and recipe.export.format == "gguf" and has_llama_cpp()

    def publish(self) -> None:
        """Put the artefacts that a reader looks for first into the run directory itself."""
        for name in PUBLISHED:
            (self.path / name).unlink(missing_ok=True)
        if self.recipe.prune is not None:
            plan, importance = self.plan(), self.importance()
            require_same_layers(plan, importance, self.path / SCORED / IMPORTANCE)
            if importance is not None:
                write_json(self.path / IMPORTANCE, importance)
            write_json(self.path / PLAN, plan)
            write_bytes(self.path / STRATEGY, pruning_strategy(plan, importance))
        if self.recipe.sparsify is not None:
            zeros = read_run_file(self.path / SPARSE / ZEROS, ZerosFile)
            write_json(self.path / ZEROS, zeros)
            write_bytes(self.path / ZEROS_MAP, sparsity_map(zeros))
        if self.recipe.quantize is not None:
            write_json(self.path / QUANTIZATION, self.rounding())

    def figures(self) -> dict[str, Any]:
        """The figures of all stages, and what they were measured on."""
        measured = [read_run_file(self.measured(source.name) / EVALUATION, EvaluationFile) for source in self.sources()]
        speeds = read_run_file(self.path / TIMED / SPEED) if self.recipe.evaluate.speed else [{}] * len(measured)
        models = [_model_figures(*pair) for pair in zip(measured, speeds, strict=True)]
        if self.measures_export:
            models.append(_model_figures(read_run_file(self.measured(AS_FILE) / EVALUATION, EvaluationFile), {}))
        recovered = next((place for place, model in enumerate(models) if model["name"] == "recovered"), 0)
        if recovered > 1:
            models[recovered]["recovers"] = models[recovered - 1]["name"]
        training = (
            read_run_file(self.path / TRAINED / RECOVERY, TrainingFile) if self.recipe.recover is not None else None
        )
        return {
            "name": self.recipe.name,
            "model": self.recipe.model,
            "seed": self.recipe.seed,
            "models": models,
            "sample_tokens": self.recipe.samples.max_new_tokens,
            "texts": [*self._texts(measured[0]["texts"], training), *_task_texts(measured[0]["evaluation"])],
            "training": training,
            **({"export": read_run_file(self.path / EXPORTED / EXPORT)} if self.recipe.export is not None else {}),
            "versions": versions(),
            "machine": machine(),
        }

    def commands(self, command_line: str) -> list[dict[str, str]]:
        """The run as one command, and its steps as single ones."""
        commands = [("The whole run", command_line)]
        models = [self.recipe.model]
        if self.recipe.search is not None:
            words = ("secateur", "search", models[-1], "-o", SEARCHED)
            commands.append(("The search", command_text(*words, config=self.recipe.search)))
        if self.recipe.prune is not None:
            words = ("secateur", "prune", models[-1], "-o", "pruned")
            cut = self.planned(self.recipe.prune, Path(SEARCHED))
            commands.append(("The cut", command_text(*words, config=cut)))
            models.append("pruned")
        if self.recipe.sparsify is not None:
            words = ("secateur", "sparsify", models[-1], "-o", "sparse")
            commands.append(("The zeros", command_text(*words, config=self.recipe.sparsify)))
            models.append("sparse")
        if self.recipe.recover is not None:
            words = ("secateur", "recover", models[-1], "-o", "recovered")
            commands.append(("The recovery", command_text(*words, config=self.recipe.recover)))
            merged = all(source.adapter is None for source in self.sources())
            models += ["recovered"] if merged else ["--adapter", "recovered"]
        if self.recipe.quantize is not None:
            words = ("secateur", "quantize", models[-1], "-o", "quantised")
            commands.append(("The rounding", command_text(*words, config=self.recipe.quantize)))
            models.append("quantised")
        if self.recipe.export is not None:
            last = self.sources()[-1]
            exported = models[-3:] if last.adapter else models[-1:]
            name = EXPORT_NAMES[self.recipe.export.format]
            line = command_text("secateur", "export", *exported, "-o", name, config=self.recipe.export)
            commands.append(("The export", line))
        figures = command_text("secateur", "evaluate", *models, config=self.recipe.evaluate)
        commands.append(("The figures", figures))
        return [{"purpose": purpose, "command": command} for purpose, command in commands]

    def plan(self) -> dict[str, Any]:
        """The plan of the cut. Raises `OutputError` where its file is damaged."""
        return dict(read_run_file(self.path / CUT / PLAN, PlanFile))

    def importance(self) -> dict[str, Any] | None:
        """The scores of the layers, where the cut needs them. Raises `OutputError` where their file is damaged."""
        if self.recipe.prune is None or not needs_importance(self.recipe.prune):
            return None
        return dict(read_run_file(self.path / SCORED / IMPORTANCE, ImportanceFile))

    def rounding(self) -> dict[str, Any]:
        """The record of the rounding. Raises `OutputError` where its file is damaged."""
        return dict(read_run_file(self.path / ROUNDED / QUANTIZATION, RoundingFile))

    def measured(self, name: str) -> Path:
        """Where the figures of a model stand."""
        return self.path / f"measure-{name}"

    def planned(self, config: PruneConfig, directory: Path) -> PruneConfig:
        """The cut's configuration, with the plan that the recipe's search has found."""
        return config if self.recipe.search is None else config.model_copy(update={"plan": str(directory / PLAN)})

    def _texts(self, measured: list[dict[str, str]], training: dict[str, Any] | None) -> Iterator[dict[str, str]]:
        """For each figure the text behind it, and how much of it."""
        for text in measured:
            yield {"figure": f"perplexity on {text['name']}", "role": "evaluation", **text}
        if self.recipe.evaluate.speed:
            yield {
                "figure": "tokens per second",
                "role": "speed",
                "source": "",
                "amount": f"a prompt of {self.recipe.evaluate.prompt_tokens:,}",
                "description": "random tokens, the same for all models",
            }
        if self.recipe.prune is not None:
            plan, importance = self.plan(), self.importance()
            if importance is not None:
                yield {
                    "figure": "layer importance",
                    "role": "importance",
                    "source": "",
                    "amount": amount_of(importance["windows"], importance["seqlen"]),
                    "description": importance["corpus"],
                }
            yield {
                "figure": "calibration of the cut",
                "role": "calibration",
                "source": plan["calibration_source"],
                "amount": amount_of(plan["calibration_windows"], plan["settings"]["seqlen"]),
                "description": plan["calibration"],
            }
        if self.recipe.sparsify is not None:
            zeros = read_run_file(self.path / SPARSE / ZEROS, ZerosFile)
            if zeros["calibration"]:
                yield {
                    "figure": "calibration of the zeros",
                    "role": "zeros",
                    "source": zeros["calibration_source"],
                    "amount": amount_of(zeros["calibration_windows"], zeros["settings"]["seqlen"]),
                    "description": zeros["calibration"],
                }
        if self.recipe.quantize is not None:
            rounding = self.rounding()
            yield {
                "figure": "calibration of the rounding",
                "role": "rounding",
                "source": rounding["calibration_source"],
                "amount": amount_of(rounding["calibration_windows"], rounding["settings"]["seqlen"]),
                "description": rounding["calibration"],
            }
        if training is not None:
            yield {
                "figure": "training",
                "role": "training",
                "source": training["source"],
                "amount": f"{training['tokens']:,} tokens",
                "description": training["corpus"],
            }


def _task_texts(evaluation: dict[str, Any]) -> Iterator[dict[str, str]]:
    for name, score in evaluation["tasks"].items():
        yield {
            "figure": f"accuracy on {name}",
            "role": "task",
            "source": "",
            "amount": f"{score['n']:,} questions",
            "description": f"the task {name}, {score['n_shot']} solved examples before each",
        }


def _model_figures(measured: dict[str, Any], speed: dict[str, Any]) -> dict[str, Any]:
    """One entry of `models`: what was measured of a model, its speed and how it continues texts."""
    return {**measured["evaluation"], **speed, "samples": measured["samples"]}
