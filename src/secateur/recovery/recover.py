"""Fine-tuning a cut model: `secateur recover`."""

import importlib.util
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from secateur import files
from secateur.data import Corpus, load_corpus
from secateur.data.chat import template_of
from secateur.distributed import barrier, is_first, process_count, process_number
from secateur.errors import InputError, TrainingError
from secateur.files.result_files import CARD
from secateur.handover.memory import call_text, files_in_memory, lineage_in_memory, note_done
from secateur.models import adapter_of, configured, load, weights_fingerprint
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.lora import underlying
from secateur.models.masks import Masks, zeros_to_keep
from secateur.models.options import LOADING, takes_options
from secateur.models.rounded import is_rounded, refuse_rounded
from secateur.models.zeros_record import forget_zeros
from secateur.recovery import checkpoints, sharding
from secateur.recovery.arguments import REPORTERS, reports, reports_below, training_arguments
from secateur.recovery.callbacks import require_callbacks, training_bar
from secateur.recovery.config import FREE_TO_CHANGE, RecoverConfig
from secateur.recovery.datasets import Amount, Padding, extra_windows, training_sequences
from secateur.recovery.distillation import Teacher, check_vocabulary, fits_memory
from secateur.recovery.lora import add_lora, lora_projections
from secateur.recovery.masked import add_masked_updates, add_masks, require_zeros
from secateur.recovery.options import RecoverOptions
from secateur.recovery.own_loss import OwnLoss, name_of, require_callable
from secateur.recovery.result import RecoverResult, record_of, result_of
from secateur.recovery.student import Student
from secateur.recovery.trainer import Diverged, RecoveryTrainer, TrainingData
from secateur.recovery.workplace import HISTORY_FILE, Workplace
from secateur.recovery.writing import advice, finish, given_back, keep_last_good, write
from secateur.wording import worded

logger = logging.getLogger(__name__)

CPU_MICRO_BATCH_SIZE = 2


@takes_options(RecoverConfig, hidden=LOADING - {"device_map", "trust_remote_code"})
def recover(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: str | Path | None = None,
    config: RecoverConfig | None = None,
    *,
    teacher: PreTrainedModel | str | None = None,
    loss: OwnLoss | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    overwrite: bool = False,
    extras: dict[str, object] | None = None,
    **options: Unpack[RecoverOptions],
) -> RecoverResult:
    """Train a model on text or instruction data, with an adapter or as a whole, and write the result.

    Weights of method `full` train in float32 and are written in the format they came in. With a model in bfloat16 or
    float16 the arithmetic is done in that format (autocast); adapters are float32 always.

    A training that is stopped leaves `OUTPUT.partial` with its last checkpoint; the same call goes on from there.

    With several processes each takes its share of every batch, and the first writes. With `fsdp` each holds a part of
    the model in between; the whole one that comes out is the first process's, on the CPU.

    Args:
        model: changed in place.
        tokenizer: the model's.
        output: an adapter directory for method `lora`; a model directory for `full`, or with `merge`. Without it
            nothing is written: the model is trained in memory, and a training that is stopped is lost. The model then
            is without an adapter, or has the weights as they were trained so far.
        config: all settings; by default those of `RecoverConfig`.
        teacher: a loaded teacher, or the name of one, instead of the name in `config.teacher`.
        loss: a function in the place of cross entropy: it is given what the model gives (`logits`, (batch, seq,
            vocabulary)) and the batch (`input_ids`, `labels` with -100 where there is no loss, `attention_mask`;
            (batch, seq) each), and returns the mean over the batch's tokens. Validation stays cross entropy.
        callbacks: Transformers' `TrainerCallback`s, told what its Trainer tells them; they may stop the training.
        overwrite: replace what the output holds, and drop an unfinished training with other settings.
        extras: more files for the output, as in `secateur.save`.
        **options: single fields of `RecoverConfig`, on top of `config`.

    Raises:
        InputError: a setting is outside what can be done.
        DataError: the text cannot be found or is too short.
        OutputError: the output is in use or cannot be written.
        TrainingError: the loss is no longer finite, or one window does not fit into memory. The last good weights are
            then in `OUTPUT.last-good`.
    """
    require_callbacks(callbacks)
    require_callable(loss)
    given: dict[str, Any] = {**options}
    if isinstance(teacher, str):
        given["teacher"], teacher = teacher, None
    if teacher is not None and not isinstance(teacher, torch.nn.Module):
        raise InputError(f"teacher= is a {type(teacher).__name__}; give a model, or the name of one")
    config = configured(RecoverConfig, config, given)
    if tokenizer is None:
        raise InputError("tokenizer= is None; give the model's, to read the text with")
    if output is not None and CARD not in (extras or {}):
        called = files.expanded(output).name
        card = files_in_memory(lineage_in_memory(model), called, "recover", call_text("recover", config))
        extras = {**card, **(extras or {})}
    with _place(output) as place:
        return _recovered(model, tokenizer, place, config, teacher, loss, callbacks, overwrite, extras, output is None)


@contextmanager
def _place(output: str | Path | None) -> Iterator[str | Path]:
    """Where a training works: at its output, or in a directory that goes when it is done."""
    if output is not None:
        yield output
        return
    if process_count() > 1:
        raise InputError("several processes train into a directory that they share; give output=")
    with tempfile.TemporaryDirectory(prefix="secateur-") as directory:
        yield Path(directory) / "trained"


def _recovered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: str | Path,
    config: RecoverConfig,
    teacher: PreTrainedModel | None,
    loss: OwnLoss | None,
    callbacks: Sequence[TrainerCallback],
    overwrite: bool,
    extras: dict[str, object] | None,
    in_memory: bool,
) -> RecoverResult:
    """As `recover`; `in_memory`: the output goes, so nothing is written there but what the training needs itself."""
    free = overwrite or Workplace(files.require_directory(output)).is_finished
    target = files.require_free(output, free)
    require_in_memory(model)
    require_finite(model, "the model")
    if is_rounded(model):
        config = _beside_rounded(model, config)
    masks = zeros_to_keep(model, config.zeros)
    if config.zeros == "fill":
        forget_zeros(model)
    config = config.settled(sparse=bool(masks))
    require_length(model, config.seqlen)
    _check_settings(model, config, masks)
    corpus = load_corpus(config.data, "train", config)
    train, validation = training_sequences(tokenizer, corpus, config)
    amount = Amount.of(tokenizer, corpus, config)
    guide = _teacher(model, tokenizer, teacher, config, len(train), len(validation or ()))
    if guide is not None and loss is not None:
        raise InputError("loss= and teacher= exclude each other; let the loss of your own run the teacher")
    padding = Padding(_pad_token(tokenizer, model.config.vocab_size))
    data = TrainingData(train, validation, extra_windows(tokenizer, config), padding)
    workplace = Workplace(target)
    with files.claimed(target) if is_first() else nullcontext():
        if is_first():
            identity = _identity(model, corpus, guide, config)
            identity["template"] = template_of(tokenizer, config.chat_template).fingerprint if amount.written else None
            if loss is not None:
                identity["loss"] = name_of(loss)
            workplace.open(identity, overwrite)
        barrier()
        set_seed(config.seed)
        number_format = model.dtype
        learner = _prepared(model, config, masks)
        skeleton = sharding.skeleton_of(learner) if config.fsdp else None
        if not is_first():
            torch.manual_seed(config.seed + process_number())  # so that dropout differs
        progress = checkpoints.TrainingProgress(_micro_batch_size(model, config))
        resume = workplace.last_checkpoint()
        if resume is not None:
            logger.info("Going on from %s", resume)
        evaluate_first = resume is None and bool(data.validation or data.extra)
        arguments = training_arguments(learner, number_format, config, workplace.path, evaluate_first)
        student = Student(learner, guide, loss)
        if config.fsdp:
            sharding.shard(student, adapter_of(model).layers(model))
        trainer = RecoveryTrainer(student, arguments, config, data, progress, workplace, masks)
        try:
            with training_bar(progress, trainer.losses) as bar, reports_below(workplace.path):
                for callback in (bar, *callbacks):
                    trainer.add_callback(callback)
                trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        except Diverged as problem:
            if trainer.good_step:
                checkpoints.restore_own_weights(trainer.student, trainer.good_weights)
            learner = _gathered(learner, skeleton)
            if in_memory:
                finish(learner, number_format, merged=False)
                kept: Path | str | None = "the model" if trainer.good_step else None
            else:
                kept = keep_last_good(trainer, learner, tokenizer, number_format, target, str(problem))
            if is_first():
                workplace.remove()
            barrier()
            raise TrainingError(advice(problem, trainer.state.global_step, kept, config)) from problem
        except BaseException as problem:  # stopped, or what a callback or a loss of the user's own raises
            if isinstance(problem, KeyboardInterrupt) and not in_memory:
                workplace.tell()
            if skeleton is None:
                given_back(learner, number_format)
            raise
        _restore_best(trainer)
        learner = _gathered(learner, skeleton)
        result = result_of(trainer, learner, target, corpus, amount)
        if skeleton is None or is_first():
            result.model = finish(learner, number_format, config.merge)
            require_zeros(underlying(learner) if config.writes_adapter else cast(PreTrainedModel, result.model), masks)
        logger.debug("Trained on %s: %d tokens in %.1f s", result.corpus, result.tokens, result.seconds)
        if in_memory:
            result.output = None
            note_done(model, "recover", record_of(result, config), config)
        elif is_first():
            workplace.finish()
            contents = {HISTORY_FILE: record_of(result, config), **reports(workplace.path), **(extras or {})}
            write(result.model, tokenizer, target, free, contents)
            workplace.remove()
        barrier()
        return result


def _beside_rounded(model: PreTrainedModel, config: RecoverConfig) -> RecoverConfig:
    """The settings for a model of rounded weights, which stay as they are. Raises `InputError` where they would not."""
    if config.method not in ("auto", "lora") or config.merge:
        asked = "--merge" if config.merge else f"--method {config.method}"
        refuse_rounded(model, f"{asked} would change them: use --method lora without --merge, or train before rounding")
    return config.model_copy(update={"method": "lora"})


def _gathered(
    model: PreTrainedModel | PeftModel, skeleton: PreTrainedModel | PeftModel | None
) -> PreTrainedModel | PeftModel:
    """The trained model; where it is spread over processes, put together in the first."""
    return model if skeleton is None else sharding.filled(skeleton, model, wanted=is_first())


def _check_settings(model: PreTrainedModel, config: RecoverConfig, masks: Masks) -> None:
    if config.method.endswith("lora"):
        lora_projections(model, config.lora_target)
    config.require_fit(sparse=bool(masks))
    if config.fsdp:
        sharding.require_shardable(model, config.load_in_8bit)
    if model.dtype == torch.float16 and model.device.type == "cpu":
        raise InputError("float16 cannot be trained on a CPU; use dtype float32 or bfloat16")
    if config.report_to != "none":
        packages = REPORTERS[config.report_to]
        if not any(importlib.util.find_spec(package) for package in packages):
            raise InputError(f"report_to {config.report_to} needs a package; run: pip install {packages[0]}")


def _pad_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> int:
    # What pads does not matter, it is masked; a tokenizer without a pad token, or with one that the model has no
    # embedding for, need not fail here.
    token = tokenizer.pad_token_id
    return token if isinstance(token, int) and token < vocab_size else 0


def _teacher(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    loaded: PreTrainedModel | None,
    config: RecoverConfig,
    train: int,
    validation: int,
) -> Teacher | None:
    teacher_tokenizer = None
    if loaded is None and config.teacher is not None:
        loaded, teacher_tokenizer = load(
            config.teacher,
            dtype=cast(Literal["float32"], str(model.dtype).removeprefix("torch.")),
            device=str(model.device),
            device_map=config.device_map,
            trust_remote_code=config.trust_remote_code,
        )
    if loaded is None:
        return None
    require_in_memory(loaded)
    require_finite(loaded, "the teacher")
    check_vocabulary(model, loaded, tokenizer, teacher_tokenizer)
    fits = partial(fits_memory, loaded, seqlen=config.seqlen)
    first = 0 if config.epochs > 1 and fits(train + validation) else train  # the windows to validate on come behind
    remember = range(first, train + validation) if fits(train + validation - first) else range(0)
    return Teacher(loaded, config.distill_weight, config.distill_temperature, remember)


def _identity(model: PreTrainedModel, corpus: Corpus, teacher: Teacher | None, config: RecoverConfig) -> dict[str, Any]:
    """Everything that changes what is learned."""
    settings = {name: value for name, value in config.model_dump().items() if name not in FREE_TO_CHANGE}
    return {
        **settings,
        "lr": config.learning_rate,
        "model weights": weights_fingerprint(model),
        "teacher weights": None if teacher is None else weights_fingerprint(teacher.model),
        "text": corpus.fingerprint,
    }


def _prepared(model: PreTrainedModel, config: RecoverConfig, masks: Masks) -> PreTrainedModel | PeftModel:
    """The model, ready to train."""
    model.train()
    if config.gradient_checkpointing:
        # Transformers 5.23 has renamed it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    if config.method == "lora":
        return add_lora(model, config)
    if config.method == "masked-lora":
        names = lora_projections(model, config.lora_target)
        add_masked_updates(model, masks, names, config.lora_r, config.lora_alpha)
        return model
    model.float().requires_grad_(True)
    if config.method == "masked":
        add_masks(model, masks)
    return model


def _micro_batch_size(model: PreTrainedModel, config: RecoverConfig) -> int:
    # More at once is no faster on a CPU and takes more memory.
    own = math.ceil(config.batch_size / process_count())
    default = CPU_MICRO_BATCH_SIZE if model.device.type == "cpu" else own
    return min(config.micro_batch_size or default, own)


def _restore_best(trainer: RecoveryTrainer) -> None:
    best, steps = trainer.progress.best_step, trainer.state.global_step
    barrier()
    if best is None or best == steps:
        return
    logger.info("The validation cross entropy was lowest after step %d of %d: keeping those weights", best, steps)
    if best == 0:
        logger.warning(
            worded("Training has not lowered the validation cross entropy at all; try a lower --lr or more --samples")
        )
    weights = load_file(trainer.workplace.best / checkpoints.WEIGHTS)
    checkpoints.load_weights(trainer.student, weights)
