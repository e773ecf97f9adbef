"""Memory and time of every phase, from a model's `config.json` and the data sheets of devices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from transformers import PreTrainedModel

from secateur.models import configured
from secateur.models.options import takes_options
from secateur.planning.calibration import prune_phases, search, sparsify_phases
from secateur.planning.config import PlanConfig
from secateur.planning.devices import GB, NETWORK, Device, named_devices
from secateur.planning.options import PlanOptions
from secateur.planning.phase import Phase, Setting, Sharding
from secateur.planning.running import evaluate, load, recover_phases
from secateur.planning.shape import BYTES, ModelShape, shape_of
from secateur.planning.source import model_shape
from secateur.planning.work import Work, seconds
from secateur.showing import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TORCHRUN = "torchrun"
COPIES, SPREAD, SHARDED, LAYERED = "", "--device-map auto", "--fsdp", "--layer-by-layer --offload cpu"
MOST_ADVISED = 1024

Ways = Callable[[Setting], Sequence[Phase]]


@dataclass(frozen=True)
class PhaseEstimate:
    """One phase on the devices.

    Attributes:
        phase: the command, and what of it.
        options: what the command needs to be given for this layout.
        memory_bytes: on each device, at most.
        fits: whether a device has that much.
        seconds: how long it takes; None where it does not fit.
        processes: how many torchrun starts.
    """

    phase: str
    options: str
    memory_bytes: float
    fits: bool
    seconds: float | None
    processes: int


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
        utilisation: `measured in part`, on a CPU, or `assumed`.
        phases: in the order in which they are done.
        advice: what to do about phases that do not fit.
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

    def headline(self) -> str:
        fitting = sum(phase.fits for phase in self.phases)
        devices = f"{self.devices} × {self.device} of {self.device_memory_bytes / GB:,.0f} GB"
        return (
            f"{self.parameters:,} parameters in {self.dtype} on {devices}: {fitting} of {len(self.phases)} phases fit"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [asdict(phase) for phase in self.phases]

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
    count, device = named_devices(config.devices, config.memory_gb, config.tflops)
    shape = model_shape(model) if isinstance(model, str | Path) else shape_of(model.config.to_dict(), "the model")
    name = str(model if isinstance(model, str | Path) else model.name_or_path)
    dtype = _number_format(config, shape, device)
    setting = Setting(shape, config, BYTES[dtype], device.is_cpu)
    products = device.float32 if dtype == "float32" else device.products
    cluster = Cluster(count, device, config.devices_per_machine, products)
    phases = [_way(position) for position in range(len(_phases(setting)))]
    found = [(phase, cluster.best(setting, phase)) for phase in phases]
    return ModelEstimate(
        model=name,
        family=shape.family,
        parameters=shape.parameters,
        dtype=dtype,
        weights_bytes=round(setting.weights),
        devices=count,
        device=device.name,
        device_memory_bytes=device.memory,
        utilisation="measured in part" if device.is_cpu else "assumed",
        phases=[one for _, one in found],
        advice=[cluster.advice(setting, phase, one) for phase, one in found if not one.fits],
    )


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind.

    Attributes:
        count: how many.
        device: which.
        per_machine: how many stand in one machine.
        products: FLOP/s of one, in the model's number format.
    """

    count: int
    device: Device
    per_machine: int
    products: float

    def best(self, setting: Setting, ways: Ways) -> PhaseEstimate:
        """The first layout that fits; where none does, the one that needs least memory."""
        layouts = list(self._layouts(setting, ways))
        return next((one for one in layouts if one.fits), min(layouts, key=lambda one: one.memory_bytes))

    def advice(self, setting: Setting, ways: Ways, found: PhaseEstimate) -> str:
        """What makes a phase fit that does not."""
        memory, needed = _gigabytes(self.device.memory), _gigabytes(found.memory_bytes)
        need = f"{found.phase} needs {needed} GB of a device's {memory} GB"
        counts = (2**power for power in range(1, MOST_ADVISED.bit_length()))
        for count in (count for count in counts if count > self.count):
            enough = replace(self, count=count).best(setting, ways)
            if enough.fits:
                return f"{need}; {count} of them are enough with {enough.options}"
        return f"{need}; no number of these devices is enough, use ones with more memory"

    def _layouts(self, setting: Setting, ways: Ways) -> Iterator[PhaseEstimate]:
        """Copies of the model first, since they are the fastest; one layer at a time last."""
        together, alone = ways(replace(setting, processes=self.count)), ways(replace(setting, processes=1))
        for phase in together:
            memory = phase.weights + phase.streams + phase.activations + phase.workspace
            yield self._placed(phase, COPIES, memory, self.count, phase.work + self._sent(phase.sent))
        for phase in together if self.count > 1 else ():
            if phase.sharding is not None:
                yield self._sharded(phase, phase.sharding)
        spread = min(self.count, self.per_machine)
        for phase in alone if spread > 1 else ():
            memory = (phase.weights + phase.activations) / spread + phase.streams + phase.workspace
            yield self._placed(phase, SPREAD, memory, 1, phase.work)
        for phase in alone if not self.device.is_cpu else ():
            if phase.layered is not None:
                # Activations wait in the machine's memory as well; weights go to the device and back.
                moved = Work(host=2 * phase.weights + 4 * phase.streams)
                yield self._placed(phase, LAYERED, phase.layered + phase.workspace, 1, phase.work + moved)

    def _sharded(self, phase: Phase, sharding: Sharding) -> PhaseEstimate:
        count = self.count
        running = sharding.divided / count + sharding.whole + sharding.gathered + phase.activations + phase.workspace
        # Each process steps its own part of the weights.
        work = replace(phase.work, traffic=phase.work.traffic / count, host=phase.work.host / count)
        return self._placed(phase, SHARDED, max(running, sharding.loaded), count, work + self._sent(sharding.sent))

    def _sent(self, amount: float) -> Work:
        return Work(sent=amount * (self.count - 1) / self.count)

    def _placed(self, phase: Phase, options: str, memory: float, processes: int, work: Work) -> PhaseEstimate:
        fits = memory <= self.device.memory
        launcher = TORCHRUN if processes > 1 else ""
        return PhaseEstimate(
            phase=phase.name,
            options=" ".join(filter(None, (launcher, options, phase.options))),
            memory_bytes=memory,
            fits=fits,
            seconds=seconds(work, self.device, self.products, self._link) if fits else None,
            processes=processes,
        )

    @property
    def _link(self) -> float:
        return self.device.link if self.count <= self.per_machine else min(self.device.link, NETWORK)


# Every phase is asked for in every layout, and for advice with every number of devices.
@lru_cache(maxsize=32)
def _phases(setting: Setting) -> list[list[Phase]]:
    """Every phase in the ways in which it can be done, the fastest first."""
    single = [load(setting), evaluate(setting), *prune_phases(setting), search(setting), *sparsify_phases(setting)]
    return [*([phase] for phase in single), *recover_phases(setting)]


def _way(position: int) -> Ways:
    return lambda setting: _phases(setting)[position]


def _number_format(config: PlanConfig, shape: ModelShape, device: Device) -> str:
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if device.is_cpu else shape.dtype


def _gigabytes(size: float) -> str:
    return f"{size / GB:,.1f}"
