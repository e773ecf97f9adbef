"""How long a text a model takes."""

from transformers import PreTrainedModel

from secateur.errors import InputError

# The kinds of rotary embedding whose factor multiplies the length. What llama3 and longrope reach is said by
# max_position_embeddings itself, as everything is where kinds of layers have settings of their own.
STRETCHING = {"linear", "dynamic", "yarn"}


def longest_text(model: PreTrainedModel) -> int | None:
    """Tokens that a model takes, by its config; None where that does not say.

    That is `max_position_embeddings`, or more where `rope_parameters` stretch the positions: they do by `factor`, from
    `original_max_position_embeddings` if that is given.
    """
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in STRETCHING:
        return longest
    return max(longest, int((rope.get("original_max_position_embeddings") or longest) * (rope.get("factor") or 1)))


def require_length(
    model: PreTrainedModel, tokens: int, what: str = "windows", remedy: str = "--seqlen", beside: int = 0
) -> None:
    """Raise `InputError` where a text has more tokens than the model takes: it would be read for long, and badly.

    Args:
        model: the model.
        tokens: of the text.
        what: what has so many.
        remedy: the option that makes it shorter.
        beside: how many of them that option does not count.
    """
    longest = longest_text(model)
    if longest is not None and tokens > longest:
        raise InputError(
            f"{what} of {tokens:,} tokens are longer than the {longest:,} that {name_of(model)} takes by its config; "
            f"pass {remedy} {max(1, longest - beside)} or less"
        )


def name_of(model: PreTrainedModel) -> str:
    """What a message calls a model."""
    return f"the model in {model.name_or_path}" if model.name_or_path else "the model"
