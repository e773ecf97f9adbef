"""Measuring models: perplexity, speed and memory, health, samples of text."""

from secateur.evaluation.agreement import compare_models, size_on_disk
from secateur.evaluation.config import DiagnoseConfig, EvaluateConfig
from secateur.evaluation.evaluate import Evaluation, evaluate
from secateur.evaluation.health import HealthReport, Problem, TensorHealth, diagnose, diagnose_model
from secateur.evaluation.perplexity import perplexity
from secateur.evaluation.samples import generate_samples
from secateur.evaluation.speed import Speed, measure_speed, measure_speeds
from secateur.evaluation.tasks import Tasks, TaskScore, load_tasks, measure_tasks, task_files

__all__ = [
    "DiagnoseConfig",
    "EvaluateConfig",
    "Evaluation",
    "HealthReport",
    "Problem",
    "Speed",
    "TaskScore",
    "Tasks",
    "TensorHealth",
    "compare_models",
    "diagnose",
    "diagnose_model",
    "evaluate",
    "generate_samples",
    "load_tasks",
    "measure_speed",
    "measure_speeds",
    "measure_tasks",
    "perplexity",
    "size_on_disk",
    "task_files",
]
