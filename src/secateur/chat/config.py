"""What `chat` can be told."""

from pydantic import Field

from secateur.models.options import LARGEST_SEED, LoadOptions


class ChatConfig(LoadOptions):
    """How a model answers."""

    system: str | None = Field(default=None, description="A system message, before everything else.")
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="How a conversation becomes text: model (its own chat template), one of several that it has by "
        "NAME, alpaca, or a FILE with a template. The model's unless given; one without continues the text.",
    )
    max_new_tokens: int = Field(default=512, ge=1, description="Tokens in an answer at most.")
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="0: always the likeliest token, the same answer each time; above: drawn at random, at 1 as the "
        "model weighs them.",
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw from the likeliest tokens that together have this probability."
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Of what is drawn.")
    adapter: str | None = Field(default=None, description="A directory with a LoRA adapter for MODEL.")
