"""What several adapters are made of: modules, tokenizers, files of weights."""
