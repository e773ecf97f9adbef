"""Devices that `plan` knows by name, with their makers' figures."""

import re
from dataclasses import dataclass

GB = 1e9
TFLOPS = 1e12


@dataclass(frozen=True)
class Device:
    """One accelerator, or a CPU with its memory.

    Attributes:
        name: as `--devices` takes it.
        memory: bytes.
        products: FLOP/s of dense matrix products in bfloat16, the sums in float32.
        float32: FLOP/s of float32 products, without TF32.
        float64: FLOP/s of float64 products.
        bandwidth: bytes a second from and to its memory.
        link: bytes a second to another device of its machine, one direction.
        float16: FLOP/s of float16 products where they are faster than those in bfloat16.
        is_cpu: whether it is the processor of a machine.
        has_bfloat16: whether its processor has instructions for bfloat16; asked of CPUs.
    """

    name: str
    memory: float
    products: float
    float32: float
    float64: float
    bandwidth: float
    link: float
    float16: float | None = None
    is_cpu: bool = False
    has_bfloat16: bool = True


def _gpu(
    name: str,
    memory: float,
    products: float,
    float32: float,
    float64: float,
    bandwidth: float,
    link: float,
    float16: float | None = None,
) -> Device:
    """A GPU from a data sheet's figures: GB, TFLOP/s three times, GB/s twice, TFLOP/s."""
    half = None if float16 is None else float16 * TFLOPS
    rates = (products * TFLOPS, float32 * TFLOPS, float64 * TFLOPS)
    return Device(name, memory * GB, *rates, bandwidth * GB, link * GB, half)


# Data sheets of NVIDIA and AMD: products without sparsity; NVLink, Infinity Fabric, or PCIe where there is neither, in
# one direction. A card MI250 is two devices, as PyTorch shows it. GeForce cards sum in float32 at half of their float16
# rate. Volta and Turing have no units for bfloat16.
GPUS = (
    _gpu("B200", 180, 2250, 75, 37, 7700, 900),
    _gpu("H200", 141, 989, 67, 67, 4800, 450),
    _gpu("H100", 80, 989, 67, 67, 3350, 450),
    _gpu("H100-PCIe", 80, 756, 51, 51, 2000, 64),
    _gpu("H800", 80, 989, 67, 1, 3350, 200),
    _gpu("H20", 96, 148, 44, 1, 4000, 450),
    _gpu("A100-80", 80, 312, 19.5, 19.5, 2039, 300),
    _gpu("A100-40", 40, 312, 19.5, 19.5, 1555, 300),
    _gpu("A800", 80, 312, 19.5, 19.5, 2039, 200),
    _gpu("V100-32", 32, 15.7, 15.7, 7.8, 900, 150, 125),
    _gpu("V100-16", 16, 15.7, 15.7, 7.8, 900, 150, 125),
    _gpu("T4", 16, 8.1, 8.1, 0.25, 320, 16, 65),
    _gpu("L40S", 48, 362, 91.6, 1.4, 864, 32),
    _gpu("L4", 24, 121, 30.3, 0.5, 300, 32),
    _gpu("A10", 24, 125, 31.2, 0.5, 600, 32),
    _gpu("A6000", 48, 155, 38.7, 0.6, 768, 32),
    _gpu("RTX6000-Ada", 48, 364, 91.1, 1.4, 960, 32),
    _gpu("RTX5090", 32, 210, 104.8, 1.6, 1792, 64),
    _gpu("RTX5080", 16, 113, 56.3, 0.9, 960, 64),
    _gpu("RTX5070-Ti", 16, 88, 43.9, 0.7, 896, 64),
    _gpu("RTX5070", 12, 62, 30.9, 0.5, 672, 64),
    _gpu("RTX5060-Ti-16", 16, 47, 23.7, 0.4, 448, 32),
    _gpu("RTX5060-Ti-8", 8, 47, 23.7, 0.4, 448, 32),
    _gpu("RTX4090", 24, 165, 82.6, 1.3, 1008, 32),
    _gpu("RTX4080", 16, 97, 48.7, 0.8, 717, 32),
    _gpu("RTX4080-Super", 16, 104, 52.2, 0.8, 736, 32),
    _gpu("RTX4070-Ti-Super", 16, 88, 44.1, 0.7, 672, 32),
    _gpu("RTX4070-Super", 12, 71, 35.5, 0.6, 504, 32),
    _gpu("RTX4070-Ti", 12, 80, 40.1, 0.6, 504, 32),
    _gpu("RTX4070", 12, 58, 29.1, 0.5, 504, 32),
    _gpu("RTX4060-Ti-16", 16, 44, 22.1, 0.3, 288, 16),
    _gpu("RTX4060-Ti-8", 8, 44, 22.1, 0.3, 288, 16),
    _gpu("RTX3090-Ti", 24, 80, 40.0, 0.6, 1008, 32),
    _gpu("RTX3090", 24, 71, 35.6, 0.6, 936, 32),
    _gpu("RTX3080-Ti", 12, 68, 34.1, 0.5, 912, 32),
    _gpu("RTX3080", 10, 60, 29.8, 0.5, 760, 32),
    _gpu("RTX3070-Ti", 8, 43, 21.7, 0.3, 608, 32),
    _gpu("RTX3070", 8, 41, 20.3, 0.3, 448, 32),
    _gpu("RTX3060-Ti", 8, 32, 16.2, 0.3, 448, 32),
    _gpu("RTX3060", 12, 25, 12.7, 0.2, 360, 32),
    _gpu("MI300X", 192, 1307, 163, 82, 5300, 448),
    _gpu("MI250", 64, 181, 45, 45, 1638, 100),
    _gpu("MI210", 64, 181, 45, 45, 1638, 100),
)
OTHER_NAMES = {
    "a100": "A100-80",
    "h100sxm": "H100",
    "h10080": "H100",
    "v100": "V100-32",
    "rtxa6000": "A6000",
    "5060ti": "RTX5060-Ti-16",
    "4060ti": "RTX4060-Ti-16",
}
MAKERS = re.compile(r"nvidia|geforce|tesla|quadro|amd|instinct|apple")

# GB/s of Apple's chips as Apple gives them; of those with two, of the one with more.
MAC_BANDWIDTHS = {
    "M1": 68, "M1-Pro": 200, "M1-Max": 400, "M1-Ultra": 800,
    "M2": 100, "M2-Pro": 200, "M2-Max": 400, "M2-Ultra": 800,
    "M3": 100, "M3-Pro": 150, "M3-Max": 400, "M3-Ultra": 819,
    "M4": 120, "M4-Pro": 273, "M4-Max": 546,
    "M5": 153, "M5-Pro": 307, "M5-Max": 614,
}  # fmt: skip
# TFLOP/s in float32 of the plain chip's processor by Accelerate: an assumption, as is that Pro and Max have twice as
# many matrix units and Ultra four times. Apple gives no such figures.
MAC_RATES = {"M1": 1.0, "M2": 1.1, "M3": 1.4, "M4": 1.5, "M5": 1.5}
MAC_CLUSTERS = {"": 1, "Pro": 2, "Max": 2, "Ultra": 4}
MAC_NAME = re.compile(r"(?:mac(?:book|mini|studio)?(?:air|pro)?)?(m[1-5])(pro|max|ultra)?(\d+)?")
SMALLEST_MAC, LARGEST_MAC = 8, 512  # GB


def plain(name: str) -> str:
    """A device's name without what people write differently: case, spaces, maker, GB."""
    letters = re.sub(r"[\W_]", "", MAKERS.sub("", name.lower()))
    return re.sub(r"(?<=\d)gb$", "", letters)


def known_device(name: str) -> Device | None:
    """The GPU or Mac of a name such as `RTX 4090`, `4090`, `A100 40GB`, `M4 Max 64GB`; None where there is none."""
    wanted = plain(name)
    found = {key: gpu for gpu in GPUS for key in (plain(gpu.name), plain(gpu.name).removeprefix("rtx"))}
    for key in (wanted, wanted.removeprefix("rtx")):
        if key in OTHER_NAMES:
            return found[plain(OTHER_NAMES[key])]
        if key in found:
            return found[key]
    mac = MAC_NAME.fullmatch(wanted)
    return None if mac is None or mac[3] is None else _mac(mac[1], mac[2] or "", int(mac[3]))


def _mac(chip: str, size: str, memory: int) -> Device | None:
    """A Mac, whose processor does the work: neither secateur nor this estimate uses its GPU."""
    chip, size = chip.upper(), size.capitalize()
    full = "-".join(filter(None, (chip, size)))
    if full not in MAC_BANDWIDTHS or not SMALLEST_MAC <= memory <= LARGEST_MAC:
        return None
    rate, bandwidth = MAC_RATES[chip] * MAC_CLUSTERS[size] * TFLOPS, MAC_BANDWIDTHS[full] * GB
    return Device(
        f"{full}-{memory}GB", memory * GB, rate, rate, rate / 4, bandwidth, GB, is_cpu=True, has_bfloat16=False
    )


def all_names() -> list[str]:
    """Names of all GPUs, and of Macs with the least memory."""
    return [*(gpu.name for gpu in GPUS), *(f"{name}-16GB" for name in MAC_BANDWIDTHS)]
