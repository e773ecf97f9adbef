"""The names of the files that secateur writes beside its results. Each stands here and nowhere else."""

COMMAND, LOG, SETTINGS, RECIPE = "command.txt", "run.log", "settings.json", "recipe.yaml"
METRICS, REPORT = "metrics.json", "report.html"
PLAN, IMPORTANCE, STRATEGY = "pruning_plan.json", "layer_importance.json", "pruning_strategy.png"
QUANTIZATION = "quantization.json"
SWEEP, COMPARED = "sweep.json", "comparison.json"
STAGES, LONGRANGE = "stages.json", "longrange.json"
CARD, LINEAGE = "README.md", "lineage.json"
