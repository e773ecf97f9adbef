"""How long work takes: amounts by kind, and the rate at which a device does each kind."""

import operator
from dataclasses import dataclass

from secateur.costs.known_devices import Device
from secateur.costs.paper import CPU_LAUNCH_SECONDS, LAUNCH_SECONDS, TRAFFIC_SHARE

DISK = 2e9  # bytes a second read from disk; an assumption
HOST = 25e9  # bytes a second between a GPU and its machine's memory, PCIe 4; an assumption
BYTES_RANKED = 60  # memory traffic that ranking a weight among its row costs


@dataclass(frozen=True)
class Work:
    """Amounts of work.

    Attributes:
        products: FLOPs of the model's own products, forward.
        training: FLOPs of forward and backward passes with the optimizer's steps.
        moments: FLOPs of second moments of activations, which a CPU multiplies as bfloat16 and a GPU as float32.
        float32: FLOPs of float32 products, of solvers.
        float64: FLOPs of float64 factorisations and updates.
        traffic: bytes between a device and its memory where no product hides them.
        ranked: weights ranked.
        launches: operations too small to fill a device, one after another.
        disk: bytes read from disk.
        host: bytes between a device and the memory of its machine.
        sent: bytes sent to other devices.
    """

    products: float = 0.0
    training: float = 0.0
    moments: float = 0.0
    float32: float = 0.0
    float64: float = 0.0
    traffic: float = 0.0
    ranked: float = 0.0
    launches: float = 0.0
    disk: float = 0.0
    host: float = 0.0
    sent: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*map(operator.add, vars(self).values(), vars(other).values()))

    def __mul__(self, times: float) -> "Work":
        return Work(*(amount * times for amount in vars(self).values()))

    def __truediv__(self, parts: float) -> "Work":
        return Work(*(amount / parts for amount in vars(self).values()))


@dataclass(frozen=True)
class Utilisation:
    """The share of a device's rates that each kind of work reaches."""

    products: float
    training: float
    float32: float
    float64: float
    traffic: float
    ranked: float


# An assumption: no phase has been timed on a GPU.
ASSUMED = Utilisation(products=0.5, training=0.4, float32=0.6, float64=0.3, traffic=TRAFFIC_SHARE, ranked=0.3)

# Of an Intel Xeon with AMX, by `benchmarks/scale.py`: products and ranked. The others are assumed, as of a GPU.
ON_CPU = Utilisation(products=0.5, training=0.4, float32=0.6, float64=0.3, traffic=TRAFFIC_SHARE, ranked=0.055)


def utilisation(device: Device) -> Utilisation:
    """On a CPU measured in part, on a GPU assumed."""
    return ON_CPU if device.is_cpu else ASSUMED


def seconds(work: Work, device: Device, products: float, link: float) -> float:
    """How long a device takes, one kind of work after another.

    Args:
        work: what one device does.
        device: which.
        products: FLOP/s of its products in the model's number format.
        link: bytes a second to the other devices.
    """
    share = utilisation(device)
    launch = CPU_LAUNCH_SECONDS if device.is_cpu else LAUNCH_SECONDS
    host = device.bandwidth * share.traffic if device.is_cpu else HOST
    moments = products * share.products if device.is_cpu else device.float32 * share.float32
    return (
        work.products / (products * share.products)
        + work.training / (products * share.training)
        + work.moments / moments
        + work.float32 / (device.float32 * share.float32)
        + work.float64 / (device.float64 * share.float64)
        + work.traffic / (device.bandwidth * share.traffic)
        + work.ranked * BYTES_RANKED / (device.bandwidth * share.ranked)
        + work.launches * launch
        + work.disk / DISK
        + work.host / host
        + work.sent / link
    )
