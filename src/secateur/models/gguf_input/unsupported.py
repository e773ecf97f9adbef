"""Why a GGUF file of another architecture is not read: known from the keys and the names of tensors in its header."""

from collections.abc import Iterator

from secateur.models import unsupported
from secateur.models.gguf_input.header import GGUFHeader

NOT_READ = "its GGUF files are not read; take the original model's directory, which may be supported"
# Architectures whose families are supported, though not out of a GGUF file.
DIRECTORIES_READ = ("gemma4",)
MULTIMODAL = "it is the part of a multimodal model that reads images or sound"
# Keys that only recurrent layers have, after the architecture's name.
RECURRENT_KEYS = ("ssm.", "wkv.", "shortconv.", "kda.", "time_mix_extra_dim")


def obstacle(header: GGUFHeader) -> str:
    """What stands against a file's architecture, as a clause on one line."""
    found = list(_of_keys(header))
    if header.keys["general.architecture"] in DIRECTORIES_READ:
        found.append(NOT_READ)
    return ", and ".join(found) or NOT_READ


def _of_keys(header: GGUFHeader) -> Iterator[str]:
    architecture = header.keys["general.architecture"]
    keys = {
        key.removeprefix(f"{architecture}."): value
        for key, value in header.keys.items()
        if key.startswith(f"{architecture}.")
    }

    def above_zero(name: str) -> bool:
        value = keys.get(name)
        return any(isinstance(each, int) and each > 0 for each in (value if isinstance(value, list) else [value]))

    if architecture == "clip":
        yield MULTIMODAL
    elif "decoder_start_token_id" in keys or _has(header, "cross_attn"):
        yield unsupported.ENCODER_DECODER
    elif keys.get("attention.causal") is False:
        yield unsupported.ENCODER
    if above_zero("expert_count"):
        yield unsupported.EXPERTS
    if above_zero("attention.kv_lora_rank") or above_zero("attention.q_lora_rank"):
        yield unsupported.LOW_RANK
    if any(key.startswith(RECURRENT_KEYS) for key in keys):
        yield unsupported.RECURRENT
    if above_zero("attention.shared_kv_layers"):
        yield unsupported.SHARED
    if above_zero("embedding_length_per_layer_input"):
        yield unsupported.PER_LAYER_INPUTS


def _has(header: GGUFHeader, name: str) -> bool:
    """Whether a decoder's first layer has a tensor whose name begins so."""
    return any(tensor.startswith((f"blk.0.{name}", f"dec.blk.0.{name}")) for tensor in header.tensors)
