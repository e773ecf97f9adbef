"""Text that a model writes itself: a sample of all it knows, where a calibration text shows only a part.

Liu 2023, "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models"; Williams 2024, "Self-calibration
for Language Model Quantization and Pruning".
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import track
from secateur.data.tokens import cached_tokens
from secateur.distributed import all_reduce_sum, process_count, process_number
from secateur.models.fingerprint import weights_fingerprint
from secateur.models.modes import cache_name

PIECES = 64
PIECE_TOKENS = 128


def own_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seqlen: int, seed: int = 0
) -> Tensor:
    """Windows of text that the model samples at temperature 1.

    Each piece of up to 128 tokens begins with a token drawn at random from the vocabulary, so that the pieces are about
    different things; the windows are pieces joined. They are kept in the cache directory and reused. With several
    processes each writes some blocks of pieces.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: its tokenizer; special tokens begin no piece, but for a first one that it always adds.
        count: windows wanted.
        seqlen: tokens in a window.
        seed: of the samples.

    Returns:
        Token ids, (count, seqlen) int64.
    """
    length = min(PIECE_TOKENS, seqlen)
    content = weights_fingerprint(model)

    def block(number: int) -> Tensor:
        kind = f"own text, {PIECES} x {length}, seed {seed}, block {number}"

        def write() -> dict[str, Tensor]:
            return {"input_ids": _write(model, tokenizer, length, (number << 32) + seed).int()}

        def fits(tensors: Mapping[str, Tensor]) -> bool:
            return tensors.keys() == {"input_ids"} and tensors["input_ids"].shape == (PIECES, length)

        return cached_tokens(tokenizer, kind, content, write, fits)["input_ids"]

    blocks = math.ceil(count * seqlen / (PIECES * length))
    tokens = torch.zeros(blocks, PIECES, length, dtype=torch.int32)
    for number in range(process_number(), blocks, process_count()):
        tokens[number] = block(number)
    return all_reduce_sum(tokens).flatten()[: count * seqlen].view(count, seqlen).long()


@torch.no_grad()
def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int, seed: int) -> Tensor:
    """`PIECES` samples of `length` tokens, (pieces, length)."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.get_input_embeddings().parameters()).device
    known = min(len(tokenizer), model.get_output_embeddings().weight.shape[0])
    tokens = _beginnings(tokenizer, known, generator)
    cache, fed = DynamicCache(config=model.config), 0
    kept: dict[str, Any] = {cache_name(model): cache, "use_cache": True}
    for _ in track(range(length - tokens.shape[1]), "Writing text"):
        outputs = model(tokens[:, fed:].to(device), **kept, logits_to_keep=1)
        fed = tokens.shape[1]
        # Drawing by the distribution function needs one random number a row, not one for every word.
        mass = outputs.logits[:, -1, :known].float().softmax(-1).cumsum(-1)  # (pieces, known)
        draw = torch.rand(PIECES, 1, generator=generator).to(mass.device) * mass[:, -1:]
        following = torch.searchsorted(mass, draw).clamp(max=known - 1)
        tokens = torch.cat([tokens, following.to(tokens.device)], dim=1)
    return tokens[:, :length]


def _beginnings(tokenizer: PreTrainedTokenizerBase, known: int, generator: torch.Generator) -> Tensor:
    """The first tokens of each piece, (pieces, 1) or, with the token that begins every text, (pieces, 2)."""
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([token for token in range(known) if token not in special])
    first = ordinary[torch.randint(len(ordinary), (PIECES, 1), generator=generator)]
    begin = tokenizer.bos_token_id
    if begin is None or begin not in tokenizer("")["input_ids"]:
        return first
    return torch.cat([torch.full_like(first, begin), first], dim=1)
