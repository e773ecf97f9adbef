"""Memory and time of every phase, from a model's `config.json` and the data sheets of devices."""

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from transformers import PreTrainedModel

from secateur.costs.devices import named_devices
from secateur.costs.known_devices import GB, Device
from secateur.costs.losses import place_of_model
from secateur.errors import InputError
from secateur.models import configured
from secateur.models.options import takes_options
from secateur.models.packed_config import METHOD
from secateur.models.quantised import quantisation_method
from secateur.planning.config import PlanConfig
from secateur.planning.cuts import CutEstimate, cut_estimates
from secateur.planning.layouts import Cluster, PhaseEstimate, advice
from secateur.planning.options import PlanOptions
from secateur.planning.phase import Setting
from secateur.planning.shape import BYTES, ModelShape, bare_of, shape_of
from secateur.planning.source import config_of
from secateur.planning.tasks import TASKS
from secateur.showing import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ModelEstimate(Drawn):
    """All phases of a model on devices.

    Attributes:
        model: its name.
        family: its family.
        parameters: counted from its config.
        dtype: number format of the weights.
        weights_bytes: of all of them.
        devices: how many.
        device: which.
        device_memory_bytes: of each.
        utilisation: `measured in part`, on `cpu`, or `assumed`.
        phases: in the order in which they are done.
        advice: the commands that can be run, and those that cannot and what they would need.
        cuts: what has to leave to fit a memory or to meet a target, where that is asked for.
    """

    model: str
    family: str
    parameters: int
    dtype: str
    weights_bytes: int
    devices: int
    device: str
    device_memory_bytes: float
    utilisation: str
    phases: list[PhaseEstimate]
    advice: list[str]
    cuts: list[CutEstimate] = field(default_factory=list)

    def headline(self) -> str:
        if not self.phases:
            return f"{self.parameters:,} parameters in {self.dtype}; " + "; ".join(cut.said for cut in self.cuts)
        fitting = sum(phase.fits for phase in self.phases)
        devices = f"{self.devices} × {self.device} of {self.device_memory_bytes / GB:,.0f} GB"
        return (
            f"{self.parameters:,} parameters in {self.dtype} on {devices}: {fitting} of {len(self.phases)} phases fit"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in (self.phases or self.cuts)]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, plan_plot

        return figure_of(plan_plot, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


@takes_options(PlanConfig, hidden=())
def estimate(
    model: str | Path | PreTrainedModel, config: PlanConfig | None = None, **options: Unpack[PlanOptions]
) -> ModelEstimate:
    """What each phase of secateur's commands needs in memory and time.

    No weights are read. FLOPs and bytes are counted from the widths in `config.json`; the share of a device's rates
    that each kind of work reaches is measured in part on a CPU, and assumed on GPUs.

    Args:
        model: a directory with a `config.json`, that file, a hub id, `smollm2-135m`, or a loaded model.
        config: devices and amounts.
        options: fields of `PlanConfig`, instead of `config` or over it: `estimate("out/pruned", devices="8xH100")`.

    Raises:
        InputError: the devices are unknown, or an option is refused.
        ModelError: there is no config, or it cannot be planned with.
    """
    config = configured(PlanConfig, config, options)
    name = str(model if isinstance(model, str | Path) else model.name_or_path)
    content, source = config_of(model) if isinstance(model, str | Path) else (model.config.to_dict(), "the model")
    shape = shape_of(content, source)
    if config.cuts_are_asked and quantisation_method(content, source) == METHOD:
        raise InputError(
            f"{source}: the weights are rounded to a few bits, and no cut is made of such a model; plan the model that "
            "they came from"
        )
    cuts = cut_estimates(bare_of(content, source), shape, config, _to_start_with(name), place_of_model(name))
    if config.devices is None:
        return _without_devices(name, shape, config, cuts)
    count, device = named_devices(config.devices, config.memory_gb, config.tflops)
    dtype = _number_format(config, shape, device)
    setting = Setting(shape, config, BYTES[dtype], device.is_cpu)
    products = {"float32": device.float32, "float16": device.float16 or device.products}.get(dtype, device.products)
    cluster = Cluster(count, device, config.devices_per_machine, products)
    found = [(task, cluster.best(setting, task)) for task in TASKS]
    return ModelEstimate(
        model=name,
        family=shape.family,
        parameters=shape.parameters,
        dtype=dtype,
        weights_bytes=round(setting.weights),
        devices=count,
        device=device.name,
        device_memory_bytes=device.memory,
        utilisation="measured in part" if device.is_cpu and device.has_bfloat16 else "assumed",
        phases=[phase for _, phases in found for phase in phases],
        advice=advice(cluster, setting, _to_start_with(name), found),
        cuts=cuts,
    )


def _without_devices(name: str, shape: ModelShape, config: PlanConfig, cuts: list[CutEstimate]) -> ModelEstimate:
    """A plan that no devices are named for: of the cuts alone."""
    dtype = shape.dtype if config.dtype == "auto" else config.dtype
    return ModelEstimate(
        model=name,
        family=shape.family,
        parameters=shape.parameters,
        dtype=dtype,
        weights_bytes=shape.parameters * BYTES[dtype],
        devices=0,
        device="",
        device_memory_bytes=0.0,
        utilisation="",
        phases=[],
        advice=[],
        cuts=cuts,
    )


def _to_start_with(name: str) -> str:
    """A model's name for a command line; of a `config.json` its directory."""
    path = Path(name)
    return shlex.quote(str(path.parent) if path.name == "config.json" else name)


def _number_format(config: PlanConfig, shape: ModelShape, device: Device) -> str:
    if config.dtype != "auto":
        return config.dtype
    if device.is_cpu:
        return "bfloat16" if device.has_bfloat16 else "float32"
    return shape.dtype
