"""The devices that a plan is made for: what their data sheets say, and the text that names them."""

import difflib
import re
from dataclasses import replace

import psutil

from secateur.costs.known_devices import GB, GPUS, MAC_NAME, TFLOPS, Device, all_names, known_device, plain
from secateur.environment import memory_bytes
from secateur.errors import OptionError

NETWORK = 50 * GB  # bytes a second to another machine, for each device: 400 Gbit/s
DEVICES_TEXT = re.compile(r"(?:(\d+)\s*[xX×*]\s*)?(?!\d{1,3}\s)(\w[\w. -]*)")
LARGEST_COUNT = 100_000
MEMORY_TEXT = re.compile(r"(?:(\d+)\s*[xX×*]\s*)?(\d{1,6}(?:\.\d{1,3})?)\s*Gi?B?", re.IGNORECASE)
DESCRIBED = "describe another one with --memory-gb and --tflops"

# One core of an Intel Xeon with AMX, as `benchmarks/scale.py --rates` measures it.
CORE = Device("cpu-core", 0.0, 684e9, 138e9, 67e9, 15e9, 1 * GB, is_cpu=True)


def named_devices(text: str, memory_gb: float | None = None, tflops: float | None = None) -> tuple[int, Device]:
    """How many devices a text such as `8xH100` names, and which.

    Args:
        text: a number, x, and a name of `GPUS`, or a Mac's chip with its memory (`M4 Max 64GB`); the name alone is one
            of them. `cpu` is all cores of this machine, each taken to be as fast as the one that was measured, and
            `cpu-core` is one of them. A memory alone, `24GB`, is a GPU that has it, taken to be as fast as the slowest
            of the table with as much.
        memory_gb: another memory than the table's, in GB.
        tflops: another rate of bfloat16 products than the table's, in TFLOP/s; the other rates are scaled with it.
            With both a name that the table lacks is a device like an H100 in other respects.

    Raises:
        OptionError: the text is not of this form, or its name is unknown and not described.
    """
    match = MEMORY_TEXT.fullmatch(text.strip()) or DEVICES_TEXT.fullmatch(text.strip())
    if match is None:
        raise OptionError(
            f"--devices '{text}' is no number of devices; write 8xH100, 1xRTX4090, 24GB or cpu for example"
        )
    count = int(match[1] or 1)
    if not 1 <= count <= LARGEST_COUNT:
        raise OptionError(f"--devices '{text}': the number of devices is between 1 and {LARGEST_COUNT:,}")
    if match.re is MEMORY_TEXT:
        device = _of_memory(float(match[2]), text)
    else:
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
            float16=None,
        )
    return count, device


def named_device(name: str) -> Device:
    """The device of a name that `named_devices` takes, one of it. Raises `OptionError` where it is unknown."""
    return _device(name, described=False, otherwise="or name the file of secateur measure-widths from there")


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


def _of_memory(memory: float, text: str) -> Device:
    """A GPU of so many GB: the slowest that the table has of the least memory that is as large, or the largest."""
    if not memory:
        raise OptionError(f"--devices '{text}': a device has some memory; write 24GB for example")
    largest = max(gpu.memory for gpu in GPUS)
    enough = min((gpu.memory for gpu in GPUS if gpu.memory >= memory * GB), default=largest)
    like = min((gpu for gpu in GPUS if gpu.memory == enough), key=lambda gpu: (gpu.bandwidth, gpu.products))
    return replace(like, name=f"{memory:g}GB (as fast as {like.name})", memory=memory * GB)


def _device(name: str, described: bool, otherwise: str = DESCRIBED) -> Device:
    name = name.strip()
    if name.lower() in ("cpu", CORE.name):
        return _processor(name.lower())
    known = known_device(name)
    if known is not None:
        return known
    if described:
        return replace(known_device("H100") or GPUS[0], name=name)
    mac = MAC_NAME.fullmatch(plain(name))
    if mac is not None:
        raise OptionError(
            f"the device '{name}' is a Mac's chip or like one; say its memory as well: M4-Max-64GB, M2-16GB"
        )
    by_plain = {plain(known): known for known in all_names()}
    by_plain |= {key.removeprefix("rtx"): known for key, known in by_plain.items()}
    near = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.5)
    hint = f"did you mean {by_plain[near[0]]}? Known are" if near else "known are"
    names = ", ".join(gpu.name for gpu in GPUS)
    raise OptionError(
        f"the device '{name}' is unknown; {hint} {names}, Macs (M1-16GB to M5-Max-128GB) and cpu; {otherwise}"
    )
