"""`secateur measure-widths`: how long a token takes by the widths of layers."""

from typing import TYPE_CHECKING

from secateur.cli.command import command
from secateur.cli.options import Json, Model
from secateur.cli.output import say, show
from secateur.files import write_figures

if TYPE_CHECKING:
    from secateur.costs.measuring import MeasureWidthsConfig


@command("secateur.costs.measuring:MeasureWidthsConfig")
def measure_widths(model: Model, config: "MeasureWidthsConfig", json: Json = None) -> None:
    """Time decoding by the widths of layers, for cuts to a time.

    Models of this one's shape, with weights that mean nothing, decode in turns: uncut, with fewer GQA groups, with
    narrower MLPs, and without them. The times are kept by machine and used by prune and search with --target-latency or
    --target-throughput, which measure by themselves where none are kept. The file of --json is for
    --target-device on another machine.

    secateur measure-widths smollm2-135m --engine llama.cpp
    """
    from secateur.costs.measuring import measure_widths as measure
    from secateur.report import times_table

    found = measure(model, None, config)
    times = found.times
    if json is not None:
        write_figures(json, times.model_dump(mode="json"))
    say(found.headline())
    show(times_table(found.rows_of_figures()))
    spread = f"half of the turns took up to {times.spread:.1%} longer"
    say(f"After {times.place.context} tokens; {spread}; {times.seconds:.0f} s")
