"""The config of a `nemotron-nas` model, for programs that ask for its layers' settings by attribute (vLLM, SGLang).

secateur writes this file beside the weights; it needs Transformers only.
"""

from transformers import LlamaConfig


class Settings(dict):
    """A JSON object whose keys are attributes as well."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class NemotronNasConfig(LlamaConfig):
    """Llama's config, with `block_configs`: for each layer what its attention and its MLP are."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=(), **settings):
        rope = {name: settings.get(name) for name in ("rope_theta", "rope_scaling")}
        super().__init__(**settings)
        self.block_configs = [
            Settings({half: Settings(content) for half, content in block.items()}) for block in block_configs
        ]
        # Transformers 5 has them in `rope_parameters` alone, and SGLang reads them here.
        for name, value in rope.items():
            if not hasattr(self, name):
                setattr(self, name, value)
