"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import Literal, TypedDict

from secateur.costs.config import Engine


class PlanOptions(TypedDict, total=False):
    """Options of `secateur.plan`, the fields of `PlanConfig`."""

    target_memory: str | None
    """What the cut model may take, 6GB or 900MB: its weights as they will be stored, and the KV cache of context=
    tokens.
    """

    target_latency: str | None
    """What the cut model may take for a decoded token, 25ms for example."""

    target_throughput: str | None
    """How many tokens a second the cut model is to decode, one sequence at a time."""

    context: int | None
    """Tokens before the last: in the cache of target_memory=4096, before the token that is timed 512 unless given, or
    the model's most where that is less.
    """

    batch: int
    """Sequences that the cache of target_memory= holds. Default: 1."""

    bits: int | None
    """Bits in which the projections will be stored: 16, 8 or 4, the latter two with a scale for each 128, 64 or 32
    weights; the rest in 16. Unless given, all as the model's own files are, or as quantize= says.
    """

    target_device: str
    """Where a token is timed: this machine, a device that secateur plan knows (by its bandwidth), or the file of
    secateur measure-widths from another machine. Default: 'this'.
    """

    engine: Engine
    """What decodes. Default: 'transformers'."""

    devices: str | None
    """How many of which device: 8xH100, 'A100 40GB', 2x4090, 'M4 Max 64GB', cpu, or a GPU by its memory, 24GB."""

    fit: str | None
    """A memory, 24GB: the smallest cuts that fit it, at 16, 8 and 4 bits, with the KV cache of context= tokens."""

    memory_gb: float | None
    """Another memory of a device than its data sheet's."""

    tflops: float | None
    """Another rate of dense bfloat16 products, in TFLOP/s. With memory_gb= the device may have any name."""

    devices_per_machine: int
    """Devices over which device_map="auto" can spread. Default: 8."""

    ratio: float | str
    """Share of all parameters that prune removes. Default: 0.25."""

    windows: int
    """Calibration windows of prune and sparsify. Default: 64."""

    seqlen: int
    """Tokens in a window, of all commands. Default: 512."""

    own_text: float | str
    """Share of prune's windows that the model writes itself. Default: 0.5."""

    batch_size: int
    """Windows that go through the model at once while calibrating. Default: 8."""

    evaluate_windows: int
    """Windows that evaluate measures. Default: 64."""

    recover_samples: int
    """Windows that recover draws. Default: 20000."""

    recover_epochs: float
    """Passes over them. Default: 1.0."""

    recover_batch_size: int
    """Windows in an optimizer step of recover, of all processes together. Default: 8."""

    micro_batch_size: int | None
    """Windows that go through recover's model at once; unless given, 2 on a CPU and a process's whole batch on a GPU.
    """

    lora_r: int
    """Rank of recover's adapter. Default: 8."""

    gradient_checkpointing: bool
    """Whether recover computes activations anew. Default: False."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Number format of the weights. auto: the checkpoint's; bfloat16 on cpu. Default: 'auto'."""
