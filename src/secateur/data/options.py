"""How rows are read, for every command that reads text."""

from typing import Self

from pydantic import BaseModel, Field, model_validator


class DataOptions(BaseModel):
    """How rows are read."""

    text_column: str | None = Field(
        default=None, min_length=1, description="The column of plain text; 'text' unless given."
    )
    prompt_column: str | None = Field(
        default=None,
        min_length=1,
        description="The column of what is asked; by its usual names unless given. Goes with answer_column.",
    )
    input_column: str | None = Field(
        default=None, min_length=1, description="The column of what it is asked about, beside prompt_column."
    )
    answer_column: str | None = Field(default=None, min_length=1, description="The column of the answer.")
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="How conversations and instructions become text: model (its own chat template), one of several "
        "that it has by NAME, alpaca, or a FILE with a template. The model's unless given, where it has one, else "
        "alpaca.",
    )

    @model_validator(mode="after")
    def _columns_go_together(self) -> Self:
        if (self.prompt_column is None) != (self.answer_column is None):
            raise ValueError("prompt_column and answer_column go together")
        if self.input_column is not None and self.prompt_column is None:
            raise ValueError("input_column goes with prompt_column and answer_column")
        if self.text_column is not None and self.prompt_column is not None:
            raise ValueError("text_column and prompt_column exclude each other")
        return self

    def data_options(self) -> "DataOptions":
        """These options alone."""
        return DataOptions(**{name: getattr(self, name) for name in DataOptions.model_fields})


AS_IT_IS = DataOptions()
