"""The devices that a plan is made for: what their data sheets say, and the text that names them."""

import difflib
import re
from dataclasses import dataclass, replace

import psutil

from secateur.environment import memory_bytes
from secateur.errors import InputError

GB = 1e9
TFLOPS = 1e12
NETWORK = 50 * GB  # bytes a second to another machine, for each device: 400 Gbit/s
DEVICES_TEXT = re.compile(r"(?:(\d+)\s*[xX×*]\s*)?(\w[\w.-]*)")
LARGEST_COUNT = 100_000


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
    """

    name: str
    memory: float
    products: float
    float32: float
    float64: float
    bandwidth: float
    link: float

    @property
    def is_cpu(self) -> bool:
        return self.name.startswith("cpu")


def _gpu(
    name: str, memory: float, products: float, float32: float, float64: float, bandwidth: float, link: float
) -> Device:
    """A GPU from a data sheet's figures: GB, TFLOP/s three times, GB/s twice."""
    return Device(name, memory * GB, products * TFLOPS, float32 * TFLOPS, float64 * TFLOPS, bandwidth * GB, link * GB)


# NVIDIA's data sheets: products without sparsity; NVLink, or PCIe where there is none, in one direction.
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
    _gpu("L40S", 48, 362, 91.6, 1.4, 864, 32),
    _gpu("L4", 24, 121, 30.3, 0.5, 300, 32),
    _gpu("A10", 24, 125, 31.2, 0.5, 600, 32),
    _gpu("RTX6000-Ada", 48, 364, 91.1, 1.4, 960, 32),
    _gpu("RTX5090", 32, 210, 104.8, 1.6, 1792, 64),
    _gpu("RTX4090", 24, 165, 82.6, 1.3, 1008, 32),
    _gpu("RTX3090", 24, 71, 35.6, 0.6, 936, 32),
)
OTHER_NAMES = {"a100": "A100-80", "h100-sxm": "H100", "h100-80": "H100", "4090": "RTX4090", "3090": "RTX3090"}

# One core of an Intel Xeon with AMX, as `benchmarks/scale.py --rates` measures it.
CORE = Device("cpu-core", 0.0, 684e9, 138e9, 67e9, 15e9, 1 * GB)


def named_devices(text: str, memory_gb: float | None = None, tflops: float | None = None) -> tuple[int, Device]:
    """How many devices a text such as `8xH100` names, and which.

    Args:
        text: a number, x, and a name of `GPUS`; the name alone is one of them. `cpu` is all cores of this machine,
            each taken to be as fast as the one that was measured, and `cpu-core` is one of them.
        memory_gb: another memory than the table's, in GB.
        tflops: another rate of bfloat16 products than the table's, in TFLOP/s; the other rates are scaled with it.
            With both a name that the table lacks is a device like an H100 in other respects.

    Raises:
        InputError: the text is not of this form, or its name is unknown and not described.
    """
    match = DEVICES_TEXT.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--devices '{text}' is no number of devices; write 8xH100, 1xRTX4090 or cpu for example")
    count = int(match[1] or 1)
    if not 1 <= count <= LARGEST_COUNT:
        raise InputError(f"--devices '{text}': the number of devices is between 1 and {LARGEST_COUNT:,}")
    device = _device(match[2], described=memory_gb is not None and tflops is not None)
    if memory_gb is not None:
        device = replace(device, memory=memory_gb * GB)
    if tflops is not None:
        factor = tflops * TFLOPS / device.products
        device = replace(
            device,
            products=device.products * factor,
            float32=device.float32 * factor,
            float64=device.float64 * factor,
            bandwidth=device.bandwidth * factor,
        )
    return count, device


def _processor(name: str) -> Device:
    """All cores of this machine, or one of them, with all its memory."""
    cores = 1 if name == CORE.name else psutil.cpu_count(logical=False) or 1
    return replace(
        CORE,
        name=name,
        memory=float(memory_bytes()),
        products=cores * CORE.products,
        float32=cores * CORE.float32,
        float64=cores * CORE.float64,
        bandwidth=cores * CORE.bandwidth,
    )


def _device(name: str, described: bool) -> Device:
    if name.lower() in ("cpu", CORE.name):
        return _processor(name.lower())
    by_name = {gpu.name.lower(): gpu for gpu in GPUS}
    known = by_name.get(OTHER_NAMES.get(name.lower(), name).lower())
    if known is not None:
        return known
    if described:
        return replace(by_name["h100"], name=name)
    near = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=0.5)
    hint = f"did you mean {by_name[near[0]].name}? " if near else ""
    names = ", ".join(gpu.name for gpu in GPUS)
    raise InputError(
        f"the device '{name}' is unknown; {hint}Known are {names} and cpu; describe another one with --memory-gb and "
        "--tflops"
    )
