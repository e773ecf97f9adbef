"""Milliseconds for a decoded token by a device's data sheet: weights and cache pass its memory once for each."""

from secateur.costs.known_devices import Device
from secateur.costs.measure import Bytes, Milliseconds
from secateur.models.halves import Part

TRAFFIC_SHARE = 0.5  # of a memory's bandwidth that is reached; an assumption
LAUNCH_SECONDS = 1e-5  # of an operation too small to fill a GPU; an assumption
CPU_LAUNCH_SECONDS = 5e-6
LAYER_LAUNCHES = 45  # operations of a decoder layer in Transformers with a cache


def by_data_sheet(sizes: Bytes, device: Device, target: float, asked: str) -> Milliseconds:
    """A model's times on a device.

    Args:
        sizes: bytes that pass for a token, half by half.
        device: which.
        target: milliseconds for a token.
        asked: the target as it was given.
    """
    rate = device.bandwidth * TRAFFIC_SHARE / 1000  # bytes in a millisecond
    launches = LAYER_LAUNCHES / 2 * 1000 * (CPU_LAUNCH_SECONDS if device.is_cpu else LAUNCH_SECONDS)

    def curve(layer: int, part: Part, units: int) -> tuple[tuple[float, float], ...]:
        if not units:
            return ((0.0, 0.0),)
        ends = (sizes.of_half(layer, part, count) / rate + launches for count in (1, units))
        return ((0.0, 0.0), *dict(zip((1.0, float(units)), ends, strict=True)).items())

    return Milliseconds(
        units=sizes.units,
        fixed=(sizes.fixed - sizes.passed_over) / rate,
        target=target,
        asked=asked,
        curves={(layer, part): curve(layer, part, units) for (layer, part), units in sizes.units.items()},
    )
