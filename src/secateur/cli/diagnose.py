"""`secateur diagnose`: is a model whole?"""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model
from secateur.cli.output import say, show
from secateur.errors import ModelError
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.evaluation import DiagnoseConfig


@command("secateur.evaluation:DiagnoseConfig")
def diagnose(model: Model, config: "DiagnoseConfig", json: Json = None) -> None:
    """Look for what is wrong with a model.

    The exit status is 1 if there is an error.

    NaN, infinities, zeros, huge values, head ratios and shapes against the config, tied weights, a forward pass.

    secateur diagnose out/pruned
    """
    from secateur.evaluation import diagnose_model
    from secateur.report import health_table, weights_table

    health = diagnose_model(model, config)
    report = health.to_dict()
    if json is not None:
        write_figures(json, report)
    show(weights_table(report))
    say(health.zeros)
    if health.rounding:
        say(health.rounding)
    if health.problems:
        show(health_table(report))
    errors = sum(problem.severity == "error" for problem in health.problems)
    if errors:
        raise ModelError(f"{model} has {errors} error{'s' if errors > 1 else ''}, listed above")
    say(f"{model} is whole" if not health.problems else f"{model} has no error, but see the warnings above")
