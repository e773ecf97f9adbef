"""What `generation_config.json` may say."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=10**12)]
Few = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]
Token = Annotated[int, Field(ge=-1, le=10**7)]  # -1 was written for none
Tokens = Annotated[list[Token], Field(min_length=1)]


class GenerationSettings(BaseModel):
    """The settings that Transformers reads for `generate`."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    pad_token_id: Token | None = None
    bos_token_id: Token | Tokens | None = None
    eos_token_id: Token | list[Token] | None = None
    decoder_start_token_id: Token | Tokens | None = None
    forced_bos_token_id: Token | None = None
    forced_eos_token_id: Token | Tokens | None = None
    suppress_tokens: list[Token] | None = None
    begin_suppress_tokens: list[Token] | None = None
    bad_words_ids: Annotated[list[Tokens], Field(min_length=1)] | None = None

    max_length: Count | None = None
    max_new_tokens: Count | None = None
    min_length: Count | None = None
    min_new_tokens: Count | None = None
    max_time: Above | None = None
    stop_strings: str | list[str] | None = None
    early_stopping: bool | Literal["never"] | None = None

    do_sample: bool | None = None
    num_beams: Few | None = None
    num_beam_groups: Few | None = None
    num_return_sequences: Few | None = None
    temperature: Share | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    top_h: Share | None = None
    typical_p: Share | None = None
    epsilon_cutoff: Share | None = None
    eta_cutoff: Share | None = None
    repetition_penalty: Above | None = None
    encoder_repetition_penalty: Above | None = None
    length_penalty: float | None = None
    diversity_penalty: float | None = None
    guidance_scale: float | None = None
    penalty_alpha: float | None = None
    no_repeat_ngram_size: Count | None = None
    encoder_no_repeat_ngram_size: Count | None = None
    renormalize_logits: bool | None = None
    remove_invalid_values: bool | None = None
    token_healing: bool | None = None

    use_cache: bool | None = None
    cache_implementation: str | None = None
    cache_config: dict[str, Any] | None = None
    max_cache_len: Count | None = None
    prefill_chunk_size: Few | None = None
    compile_config: dict[str, Any] | None = None
    watermarking_config: dict[str, Any] | None = None

    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    return_dict_in_generate: bool | None = None
