"""A family of models that neither Transformers nor secateur knows: importing it tells Transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from brook.configuration import BrookConfig
from brook.modeling import BrookForCausalLM, BrookModel

AutoConfig.register("brook", BrookConfig)
AutoModel.register(BrookConfig, BrookModel)
AutoModelForCausalLM.register(BrookConfig, BrookForCausalLM)
