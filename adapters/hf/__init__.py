"""Any current vision-language model of transformers, without code for it."""
