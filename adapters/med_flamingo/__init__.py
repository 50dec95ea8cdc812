"""Med-Flamingo: CLIP and a perceiver, read by gated cross-attention in LLaMA-7B."""
