"""RadFM: a 3D vision transformer and a perceiver before LLaMA-13B."""
