"""The authors' file formats: training checkpoints and the EVA ViT, read and written strictly."""
