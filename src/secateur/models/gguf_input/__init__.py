"""Reading a GGUF file as an ordinary model.

The file's keys, tensors and weights are read here and not by Transformers, which drops what it has no field for: rotary
scaling, biases, head sizes, and which takes a `general.name` of `mistral` for an architecture.
"""

from secateur.models.gguf_input.read import read_gguf, read_gguf_settings, stored_dtype

__all__ = ["read_gguf", "read_gguf_settings", "stored_dtype"]
