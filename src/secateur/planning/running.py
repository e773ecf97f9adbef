"""The phases that only run a model or train it: `load`, `evaluate`, `recover`."""

import math
from dataclasses import replace

from secateur.costs.paper import LAYER_LAUNCHES
from secateur.planning.config import EVALUATE, RECOVER
from secateur.planning.phase import Phase, Setting, Sharding
from secateur.planning.work import Work
from secateur.recovery.losses import CPU_BUFFER_BYTES, GPU_BUFFER_BYTES
from secateur.recovery.recover import CPU_MICRO_BATCH_SIZE
from secateur.recovery.trainer import KEEP_GOOD_EVERY

EVALUATIONS = 6  # of a training: before it and, with the default of --eval-steps, five times on the way
STATE_BYTES = 16  # of a trained parameter in float32: itself, its gradient, and AdamW's two moments
STEP_TRAFFIC = 40  # bytes that a step of AdamW and the norm of the gradient move for a trained parameter
CAST_BYTES = 2  # of a float32 parameter's copy in bfloat16, which autocast keeps through a micro-batch


def load(setting: Setting) -> Phase:
    """Weights from disk to the device; each process on its own."""
    copied = 0.0 if setting.on_cpu else setting.weights
    return Phase("load", Work(disk=setting.weights, host=copied), weights=setting.weights)


def evaluate(setting: Setting) -> Phase:
    """Perplexity of windows, which processes share, then speed at batch size 1."""
    shape, config = setting.shape, setting.config
    tokens = math.ceil(config.evaluate_windows / setting.processes) * config.seqlen
    perplexity = setting.forward(tokens) + Work(products=tokens * shape.head_flops)
    runs = 1 + EVALUATE.repeats
    prefill = runs * (EVALUATE.prompt_tokens * shape.body_flops(EVALUATE.prompt_tokens) + shape.head_flops)
    decoded = runs * EVALUATE.new_tokens
    speed = Work(
        products=prefill, traffic=decoded * setting.weights, launches=decoded * LAYER_LAUNCHES * len(shape.layers)
    )
    return Phase(
        "evaluate",
        perplexity + speed,
        weights=setting.weights,
        workspace=max(setting.layer_forward(setting.batch_tokens), setting.scored_logits),
    )


def recover_phases(setting: Setting) -> list[list[Phase]]:
    """LoRA and full training, each alone and with a teacher of the same size: as asked, then with less memory."""
    settings = thrifty(setting)
    return [
        [training(one, teacher=teacher) for one in settings] for training in (lora, full) for teacher in (False, True)
    ]


def thrifty(setting: Setting) -> list[Setting]:
    """A training's setting as asked, with activations computed anew, and with one window at a time as well."""
    anew = setting.config.model_copy(update={"gradient_checkpointing": True})
    single = anew.model_copy(update={"micro_batch_size": 1})
    return [setting, replace(setting, config=anew), replace(setting, config=single)]


def lora(setting: Setting, teacher: bool = False) -> Phase:
    """Training of an adapter."""
    shape, rank = setting.shape, setting.config.lora_r
    trained = rank * sum(
        rows + columns for layer in shape.layers for half in layer.halves for rows, columns in half.projections.values()
    )
    # Frozen weights have no gradient: forward, and backward by the activations.
    flops = 2 * shape.body_flops(setting.config.seqlen) + 2 * shape.head_flops + 6 * trained
    kept = [setting.kept_by_token(layer, 18, 6, 4, 8, 4) + 14 * rank for layer in shape.layers]
    return _training("lora", setting, trained, flops, kept, frozen=setting.weights, teacher=teacher)


def full(setting: Setting, teacher: bool = False) -> Phase:
    """Training of all weights."""
    shape = setting.shape
    flops = 3 * shape.body_flops(setting.config.seqlen) + 3 * shape.head_flops
    widths = (26, 4, 4, 8, 8) if setting.width == 2 else (24, 8, 8, 16, 8)
    kept = [setting.kept_by_token(layer, *widths) for layer in shape.layers]
    return _training("full", setting, shape.parameters, flops, kept, frozen=0.0, teacher=teacher)


def _training(
    method: str, setting: Setting, trained: int, flops: float, kept: list[float], frozen: float, teacher: bool
) -> Phase:
    """One training.

    Args:
        method: lora or full.
        trained: parameters that are trained.
        flops: of a token, forward and backward.
        kept: bytes of a token's activations that each layer keeps for the backward pass.
        frozen: bytes of weights that are not trained.
        teacher: whether a model of the same size runs beside it.
    """
    shape, config, full = setting.shape, setting.config, method == "full"
    forward = shape.body_flops(config.seqlen) + shape.head_flops
    if config.gradient_checkpointing:
        flops += shape.body_flops(config.seqlen)
        stream = (4 if full else setting.width) * shape.hidden_size
        kept = [max(kept), *([stream] * len(kept))]
    options = ["--gradient-checkpointing"] * config.gradient_checkpointing
    options += [f"--micro-batch-size {config.micro_batch_size}"] * (config.micro_batch_size is not None)
    # A batch is of all processes together, and each needs a window of it.
    batch = max(config.recover_batch_size, setting.processes)
    options += [f"--batch-size {batch}"] * (batch > config.recover_batch_size)
    own = math.ceil(batch / setting.processes)
    micro = min(config.micro_batch_size or (CPU_MICRO_BATCH_SIZE if setting.on_cpu else own), own)
    windows = config.recover_samples * (1 - RECOVER.val_size)
    steps = config.recover_epochs * windows / batch
    parts = steps * math.ceil(own / micro)
    tokens = steps * own * config.seqlen
    validation = EVALUATIONS * config.recover_samples * RECOVER.val_size * config.seqlen / setting.processes
    casts = CAST_BYTES if setting.width == 2 and full else 0
    kept_good = 4 * trained / KEEP_GOOD_EVERY["full" if full else "lora"]
    every_step = Work(traffic=STEP_TRAFFIC * trained, host=kept_good)
    every_part = Work(traffic=(4 + casts) * trained * bool(casts), launches=6 * LAYER_LAUNCHES * len(shape.layers))
    work = (
        Work(training=tokens * flops, products=(validation + tokens * teacher) * forward)
        + every_step * steps
        + every_part * parts
    )
    buffers = (3 if teacher else 2) * (CPU_BUFFER_BYTES if setting.on_cpu else GPU_BUFFER_BYTES)
    head_gradient = 8 * shape.vocab_size * shape.hidden_size if full else 0
    # On a CPU the last good weights stand in the same memory as the model.
    state = trained * (STATE_BYTES + casts + (4 if setting.on_cpu else 0))
    teaching = (setting.weights, setting.layer_forward(micro * config.seqlen)) if teacher else (0.0, 0.0)
    # Embeddings and head stay together from the forward to the backward pass; of the layers two are there at once.
    group = 2 * shape.largest_layer + shape.embedding_parameters
    sharding = Sharding(
        divided=state - casts * trained if full else frozen,
        whole=teaching[0] + (0 if full else state),
        gathered=group * (4 + casts if full else setting.width),
        loaded=teaching[0] + (4 * trained if full else frozen + state),
        # Weights are gathered forward and backward, in their own format; gradients are reduced once a step.
        sent=2 * (4 * trained if full else frozen) * parts + 4 * trained * steps,
    )
    return Phase(
        f"recover: {method}{', teacher' if teacher else ''}",
        work,
        sent=2 * 4 * trained * steps,
        weights=frozen + state + teaching[0],
        activations=micro * config.seqlen * sum(kept),
        workspace=buffers + head_gradient + teaching[1],
        options=" ".join(options),
        sharding=sharding,
    )
