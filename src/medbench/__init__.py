"""medbench: compare medical multimodal LLMs honestly and fast."""
