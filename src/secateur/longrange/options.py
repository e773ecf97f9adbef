"""What training and evaluation can be told, for the command line, recipes and Python alike."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from secateur.files import expanded
from secateur.longrange.config import LongRangeConfig
from secateur.models.options import LARGEST_SEED
from secateur.wording import know_options

Task = Literal["listops", "text", "retrieval", "image", "pathfinder"]
Mode = Literal["auto", "dense", "sparse"]
PatternRule = Literal["learned", "mean-attention"]
Reporter = Literal["none", "tensorboard"]

NAME = r"^\w[\w.-]*$"
STEPS = ("warmup", "num_init_steps", "num_dense_train_steps")


class RunOptions(BaseModel):
    """Which run, and where."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    task: Task = Field(description="Task of the Long Range Arena.")
    name: str = Field(
        default="sat", pattern=NAME, max_length=60, description="Name of the run and of its directory below --output."
    )
    data: Path | None = Field(
        default=None, description="What prepare has written. Default: TASK below data/ in the output directory."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")

    def data_directory(self, output: Path) -> Path:
        """Where the examples are."""
        return expanded(self.data) if self.data else output / "data" / self.task


class TrainConfig(RunOptions):
    """Training: dense at first, block-sparse once the pattern has settled."""

    config: Path | None = Field(default=None, description="A YAML file over the task's own options.")
    mode: Mode = Field(
        default="auto",
        description="auto switches when attention has settled; dense never; sparse before the first step, by the "
        "attention of its batch.",
    )
    pattern: PatternRule = Field(
        default="learned",
        description="Which blocks are kept: by a matrix trained along with the model, or by the last mean attention.",
    )
    seed: int = Field(default=1001, ge=0, le=LARGEST_SEED, description="Seed of weights, batches and dropout.")
    train_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps in all. With fewer than in the file its warm-up, first and last step of the switch come "
        "earlier in proportion.",
    )
    skewness: float | None = Field(default=None, description="Instead of the file's skewness.")
    distance: float | None = Field(default=None, gt=0, description="Instead of the file's distance, in percent.")
    check_every: int = Field(default=10, ge=1, description="Steps between looks at the attention while dense.")
    report_to: Reporter = Field(default="none", description="Also write the curves for TensorBoard.")

    def settled(self, over: LongRangeConfig | None = None) -> LongRangeConfig:
        """The task's options with the file's and these over them.

        Args:
            over: a configuration instead of the task's own.

        Raises:
            InputError: the file is not there or has an unknown key or a value that is refused.
        """
        base = over or LongRangeConfig.of_task(self.task)
        if self.config is not None:
            base = LongRangeConfig.load(self.config, base)
        changes: dict[str, Any] = {}
        if self.train_steps is not None:
            share = min(1.0, self.train_steps / base.training.num_train_steps)
            before = {name: getattr(base.training, name) for name in STEPS}
            changes = {name: max(1, round(share * steps)) if steps else 0 for name, steps in before.items()}
            changes["num_train_steps"] = self.train_steps
        for name in ("skewness", "distance"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return base.overlaid({"training": changes}, "options")


class EvaluateConfig(RunOptions):
    """Accuracy of a trained model."""

    split: Literal["test", "dev"] = Field(default="test", description="Which examples.")
    batch_size: int = Field(default=32, ge=1, description="Examples at once.")


know_options(TrainConfig)
know_options(EvaluateConfig)
