"""Low-rank adapters: putting a new one on a model and writing it."""

import copy
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from secateur.errors import InputError
from secateur.models import adapter_of
from secateur.models.halves import PARTS, Rows
from secateur.models.lora import ADAPTER, wrap
from secateur.recovery.config import RecoverConfig

# What these hold, for families that call them otherwise or have several in one matrix.
ROWS: dict[str, Rows] = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "gate_proj": "channel",
    "up_proj": "channel",
}


def lora_projections(model: PreTrainedModel, target: str) -> list[str]:
    """The names of the projections that get an adapter.

    Args:
        model: of a supported family.
        target: comma-separated: `attention`, `mlp`, or single projections (`q_proj`). Where no projection has one of
            Llama's names, it stands for the one with the same rows.

    Raises:
        InputError: a name is neither.
    """
    adapter = adapter_of(model)
    groups = {str(part): adapter.projection_names(part) for part in PARTS}
    single = [name for group in groups.values() for name in group]
    chosen: list[str] = []
    for part in (part.strip() for part in target.split(",")):
        if part in ROWS and part not in single:
            chosen.extend(adapter.projections_with(ROWS[part]))
            continue
        if part not in groups and part not in single:
            raise InputError(f"lora_target '{part}' is unknown; use attention, mlp, or any of {', '.join(single)}")
        chosen.extend(groups.get(part, (part,)))
    return list(dict.fromkeys(chosen))


def add_lora(model: PreTrainedModel, config: RecoverConfig) -> PeftModel:
    """Wrap the targeted projections, in place, with an adapter that changes nothing yet; all else is frozen.

    The adapter's weights are float32 whatever the model's are.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

    Raises:
        InputError: `lora_target` names an unknown projection.
    """
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        # PEFT only divides by r, so shares of one are fine.
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=lora_projections(model, config.lora_target),
        base_model_name_or_path=model.name_or_path or None,
    )
    return wrap(model, settings)


def write_adapter(model: PeftModel, directory: Path) -> None:
    """Write PEFT's two files, `adapter_config.json` and `adapter_model.safetensors`.

    PEFT's own `save_pretrained` would ask the hub about the base model and add an empty model card.
    """
    # Not embeddings: they are frozen, and looking whether they were resized is what asks the hub.
    weights = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in sorted(weights.items())},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    settings = copy.copy(model.peft_config[ADAPTER])
    assert isinstance(settings, LoraConfig)
    settings.inference_mode = True
    settings.target_modules = sorted(settings.target_modules or ())
    settings.save_pretrained(str(directory))
