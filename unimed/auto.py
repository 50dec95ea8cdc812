"""Importing this module makes Uni-Med known to transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor

AutoConfig.register(UniMedConfig.model_type, UniMedConfig)
AutoModelForImageTextToText.register(UniMedConfig, UniMedForConditionalGeneration)
AutoProcessor.register(UniMedConfig, UniMedProcessor)
