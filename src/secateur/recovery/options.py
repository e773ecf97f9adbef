"""Options by name, for type checkers: `make options` writes this file from the configs."""

from __future__ import annotations

from typing import TypedDict

from secateur.data import Data
from secateur.models.masks import Zeros
from secateur.recovery.config import Method, Reporter


class RecoverOptions(TypedDict, total=False):
    """Options of `secateur.recover`, the fields of `RecoverConfig`."""

    text_column: str | None
    """The column of plain text; 'text' unless given."""

    prompt_column: str | None
    """The column of what is asked; by its usual names unless given. Goes with answer_column."""

    input_column: str | None
    """The column of what it is asked about, beside prompt_column."""

    answer_column: str | None
    """The column of the answer."""

    chat_template: str | None
    """How conversations and instructions become text: model (its own chat template), one of several that it has by
    NAME, alpaca, or a FILE with a template. The model's unless given, where it has one, else alpaca.
    """

    method: Method
    """Train a low-rank adapter (lora) or all weights (full); in a model with zeros what leaves them zero, a masked
    low-rank update (masked-lora) or the other weights (masked). auto: lora, or masked-lora where there are zeros.
    Default: 'auto'.
    """

    zeros: Zeros
    """Whether zeros are to stay. auto: in a model whose sparsity.json says so, or with N:M or a third zeros. fill:
    train as in a dense model; keep: all of them stay. Default: 'auto'.
    """

    data: Data
    """Text, conversations or instruction data to train on: a named corpus (train part), a file, or several with shares
    of the windows and examples, a.jsonl:0.7,b.txt:0.3. Default: 'pydocs'.
    """

    samples: int | None
    """Windows or examples to draw from the data, those for validation included; all unless given."""

    seqlen: int
    """Tokens in a window; examples are cut there. 1024 for lora beside zeros unless given. Default: 512."""

    epochs: float
    """Passes over the training data. Default: 1.0."""

    lr: float | None
    """Highest learning rate; unless given 1e-3 for lora and masked-lora, 1e-4 for full, masked, and lora beside zeros.
    """

    batch_size: int
    """Windows in an optimizer step, of all processes together. Default: 8."""

    micro_batch_size: int | None
    """Windows that go through the model at once, halved where memory is short; unless given, 2 on a CPU and the
    process's whole batch on a GPU.
    """

    warmup_steps: int | None
    """Steps in which the learning rate rises; a twentieth of all unless given."""

    weight_decay: float
    """AdamW's weight decay. Default: 0.0."""

    max_grad_norm: float
    """Gradients are scaled down to this norm. Default: 1.0."""

    max_minutes: float | None
    """Stop by so many minutes of steps, validation and checkpoints; the learning rate falls to zero by then. How many
    steps fit is said after a few.
    """

    lora_r: int
    """Rank of the adapter. Default: 8."""

    lora_alpha: float
    """The adapter's output is scaled by alpha / r. Default: 16."""

    lora_dropout: float | str
    """Dropout before the adapter. Default: 0.0."""

    lora_target: str
    """What gets an adapter: attention, mlp, or projections by name. q_proj,v_proj for lora beside zeros unless given.
    Default: 'attention,mlp'.
    """

    gradient_checkpointing: bool
    """Compute activations anew in the backward pass: less memory, a third more time. Default: False."""

    distill_weight: float | str
    """Share of the teacher's part in the loss; the rest is cross entropy. Default: 0.5."""

    distill_temperature: float
    """Softens both distributions before they are compared. Default: 1.0."""

    val_size: float | str
    """Windows set apart for validation: a share below 1, a number from 1 on, 0 for none. Default: 0.05."""

    eval_steps: int | None
    """Steps between evaluations; a fifth of all unless given."""

    early_stopping_patience: int | None
    """Stop after so many evaluations in a row without a lower validation loss."""

    extra_eval: Data | list[Data]
    """Texts whose perplexity is measured at each evaluation. Default: []."""

    extra_eval_windows: int
    """How many windows of each such text, from its beginning. Default: 16."""

    checkpoint_steps: int | None
    """Steps between checkpoints; unless given, so that they take less than a twentieth of the time."""

    report_to: Reporter
    """Also send the curves there. Default: 'none'."""

    fsdp: bool
    """Under torchrun, spread the model over the processes (FSDP2) for less memory on each. Default: False."""

    load_in_8bit: bool
    """Hold the frozen weights in 8 bits (bitsandbytes; method lora on an NVIDIA GPU). Default: False."""

    merge: bool
    """Add the adapter to the weights and write a whole model. Default: False."""

    seed: int
    """Seed of the choice and order of windows, the adapter and dropout. Default: 0."""

    device_map: str | None
    """auto: spread a model that is larger than one device (Accelerate)."""

    trust_remote_code: bool
    """Run Python code that comes with the model. Default: False."""
