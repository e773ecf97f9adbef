"""How a command's phases are laid out over devices: the first way that fits, and what it is called for."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from secateur.costs.devices import NETWORK
from secateur.costs.known_devices import GB, Device
from secateur.planning.phase import Phase, Setting, Sharding
from secateur.planning.tasks import Task, phases_of
from secateur.planning.work import Work, seconds

TORCHRUN = "torchrun"
COPIES, SPREAD, SHARDED, LAYERED = "", "--device-map auto", "--fsdp", "--layer-by-layer --offload cpu"
MOST_ADVISED = 1024


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

    def best(self, asked: Setting, task: Task, *, all_windows: bool = False) -> list[PhaseEstimate]:
        """A task's phases in the first layout that holds them all, or else in the one that needs least memory.

        Args:
            asked: what is to be done.
            task: the command.
            all_windows: whether no fewer windows than asked are tried.
        """
        least: list[PhaseEstimate] = []
        for settings in islice(task.settings(asked), 1 if all_windows else None):
            for phases in self._layouts(asked, settings, task):
                if all(one.fits for one in phases):
                    return phases
                if not least or _memory(phases) < _memory(least):
                    least = phases
        return least

    def _layouts(self, asked: Setting, settings: Sequence[Setting], task: Task) -> Iterator[list[PhaseEstimate]]:
        """Copies of the model first, since they are the fastest; one layer at a time last."""
        together = [(one, phases_of(task, replace(one, processes=self.count))) for one in settings]
        alone = [(one, phases_of(task, replace(one, processes=1))) for one in settings]
        for one, phases in together:
            yield [self._copied(phase, task.reductions(asked, one)) for phase in phases]
        for one, phases in together if self.count > 1 else ():
            if all(phase.sharding is not None for phase in phases):
                given = task.reductions(asked, one)
                yield [self._sharded(phase, phase.sharding, given) for phase in phases if phase.sharding is not None]
        spread = min(self.count, self.per_machine)
        for one, phases in alone if spread > 1 else ():
            yield [self._spread(phase, spread, task.reductions(asked, one)) for phase in phases]
        for one, phases in alone if not self.device.is_cpu else ():
            if all(phase.layered is not None for phase in phases):
                given = task.reductions(asked, one)
                yield [self._layered(phase, phase.layered, given) for phase in phases if phase.layered is not None]

    def _copied(self, phase: Phase, given: str) -> PhaseEstimate:
        memory = phase.weights + phase.streams + phase.activations + phase.workspace
        return self._placed(phase, (COPIES, given), memory, self.count, phase.work + self._sent(phase.sent))

    def _spread(self, phase: Phase, spread: int, given: str) -> PhaseEstimate:
        memory = (phase.weights + phase.activations) / spread + phase.streams + phase.workspace
        return self._placed(phase, (SPREAD, given), memory, 1, phase.work)

    def _layered(self, phase: Phase, layer: float, given: str) -> PhaseEstimate:
        # Activations wait in the machine's memory as well; weights go to the device and back.
        moved = Work(host=2 * phase.weights + 4 * phase.streams)
        return self._placed(phase, (LAYERED, given), layer + phase.workspace, 1, phase.work + moved)

    def _sharded(self, phase: Phase, sharding: Sharding, given: str) -> PhaseEstimate:
        count = self.count
        running = sharding.divided / count + sharding.whole + sharding.gathered + phase.activations + phase.workspace
        # Each process steps its own part of the weights.
        work = replace(phase.work, traffic=phase.work.traffic / count, host=phase.work.host / count)
        memory = max(running, sharding.loaded)
        return self._placed(phase, (SHARDED, given), memory, count, work + self._sent(sharding.sent))

    def _sent(self, amount: float) -> Work:
        return Work(sent=amount * (self.count - 1) / self.count)

    def _placed(
        self, phase: Phase, options: tuple[str, str], memory: float, processes: int, work: Work
    ) -> PhaseEstimate:
        fits = memory <= self.device.memory
        layout, given = options
        launcher = TORCHRUN if processes > 1 else ""
        return PhaseEstimate(
            phase=phase.name,
            options=" ".join(filter(None, (launcher, layout, given, phase.options))),
            memory_bytes=memory,
            fits=fits,
            seconds=seconds(work, self.device, self.products, self._link) if fits else None,
            processes=processes,
        )

    @property
    def _link(self) -> float:
        return self.device.link if self.count <= self.per_machine else min(self.device.link, NETWORK)


Found = Sequence[tuple[Task, Sequence[PhaseEstimate]]]


def advice(cluster: Cluster, asked: Setting, model: str, found: Found) -> list[str]:
    """What the devices are enough for, as commands that can be copied, and what they are not enough for.

    Args:
        cluster: the devices.
        asked: what is to be done.
        model: its name.
        found: each task with its phases as `Cluster.best` has found them.
    """
    commands = [(task, phases) for task, phases in found if task.command]
    can = [
        f"you can: {_line(cluster, asked, model, task, phases)}"
        for task, phases in commands
        if all(one.fits for one in phases)
    ]
    cannot = [
        f"you cannot: {task.title.replace(' MODEL', '')}, {_lack(cluster, asked, task, phases)}"
        for task, phases in commands
        if not all(one.fits for one in phases)
    ]
    return [*can, *cannot]


def _line(cluster: Cluster, asked: Setting, model: str, task: Task, phases: Sequence[PhaseEstimate]) -> str:
    """A command that fits; of all its phases the options are the same."""
    launcher, options = "secateur", phases[0].options
    if phases[0].processes > 1:
        machines = -(-cluster.count // cluster.per_machine)
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        each = min(cluster.count, cluster.per_machine)
        launcher = f"{TORCHRUN} {nodes}--nproc-per-node {each} -m secateur"
        options = options.removeprefix(TORCHRUN).strip()
    told = task.line(model, asked)
    for option in options.split(" --"):  # a smaller value takes the place of the one that was told
        name = "--" + option.removeprefix("--").partition(" ")[0]
        told = re.sub(rf" {name} \S+", "", told) if option else told
    return " ".join(filter(None, (launcher, told, options)))


def _lack(cluster: Cluster, asked: Setting, task: Task, phases: Sequence[PhaseEstimate]) -> str:
    """What a command needs that does not fit, and what would be enough."""
    needed, memory = _gigabytes(_memory(phases)), _gigabytes(cluster.device.memory)
    need = f"which needs {needed} GB of a device's {memory} GB at least"
    if cluster.device.is_cpu:
        return need + ("; with --stream one layer at a time is in memory" if task.streams else "")
    for count in (2**power for power in range(1, MOST_ADVISED.bit_length())):
        if count > cluster.count:
            enough = replace(cluster, count=count).best(asked, task, all_windows=True)
            if all(one.fits for one in enough):
                return f"{need}; {count} of them are enough with {enough[0].options}"
    return f"{need}; no number of these devices is enough, use ones with more memory"


def _memory(phases: Sequence[PhaseEstimate]) -> float:
    return max(one.memory_bytes for one in phases)


def _gigabytes(size: float) -> str:
    return f"{size / GB:,.1f}"
