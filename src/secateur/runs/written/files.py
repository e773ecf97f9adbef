"""By the file's name, or the command with --json: where it is written, and what it is."""

from secateur.runs.written.base import Written
from secateur.runs.written.checks import (
    DiagnoseJson,
    EstimateJson,
    ExportJson,
    WidthTimesJson,
)
from secateur.runs.written.cuts import (
    ImportanceJson,
    PlanJson,
    PruneJson,
    QuantizationJson,
    QuantizeJson,
    RoundsFile,
    SearchJson,
    SparsifyJson,
    SparsityJson,
)
from secateur.runs.written.measured import (
    CompareJson,
    ComparisonFile,
    EvaluateJson,
    EvaluationJson,
    MetricsJson,
    RecoverJson,
    RecoveryFile,
    RunJson,
    SweepFile,
)
from secateur.runs.written.sparse_attention import (
    AttentionCompareJson,
    GenerateJson,
    LongRangeEvaluateJson,
    LongRangeFile,
    LongRangeJson,
    LongRangeMetrics,
    LongRangeRunJson,
    TuneJson,
)

FILES: dict[str, tuple[str, type[Written]]] = {
    "evaluate --json": ("`secateur evaluate`", EvaluateJson),
    "compare --json": ("`secateur compare`, `secateur sweep`", CompareJson),
    "comparison.json": ("`secateur compare`, `secateur sweep`", ComparisonFile),
    "run --json": ("`secateur run`", RunJson),
    "metrics.json": ("a run's directory", MetricsJson),
    "evaluation.json": ("`measure-*` of a run", EvaluationJson),
    "sweep.json": ("a sweep's directory", SweepFile),
    "prune --json": ("`secateur prune`", PruneJson),
    "pruning_plan.json": ("`secateur prune`, `secateur search`, a run", PlanJson),
    "layer_importance.json": ("`secateur prune`, a run", ImportanceJson),
    "search --json": ("`secateur search`", SearchJson),
    "search.json": ("`secateur search`", RoundsFile),
    "sparsify --json": ("`secateur sparsify`", SparsifyJson),
    "sparsity.json": ("`secateur sparsify`, a run", SparsityJson),
    "quantize --json": ("`secateur quantize`", QuantizeJson),
    "quantization.json": ("`secateur quantize`, a run", QuantizationJson),
    "recover --json": ("`secateur recover`", RecoverJson),
    "recovery.json": ("`secateur recover`, a run", RecoveryFile),
    "diagnose --json": ("`secateur diagnose`", DiagnoseJson),
    "plan --json": ("`secateur plan`; it may have more keys", EstimateJson),
    "measure-widths --json": ("`secateur measure-widths`", WidthTimesJson),
    "export --json": ("`secateur export`", ExportJson),
    "results.json": ("`secateur longrange train`", LongRangeFile),
    "longrange train --json": ("`secateur longrange train`", LongRangeJson),
    "longrange evaluate --json": ("`secateur longrange evaluate`", LongRangeEvaluateJson),
    "metrics.json (longrange)": ("a run's directory, of a recipe with a section longrange", LongRangeMetrics),
    "run --json (longrange)": ("`secateur run`, of such a recipe", LongRangeRunJson),
    "attention tune --json": ("`secateur attention tune`", TuneJson),
    "attention generate --json": ("`secateur attention generate`", GenerateJson),
    "attention compare --json": ("`secateur attention compare`", AttentionCompareJson),
}
