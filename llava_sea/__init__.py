"""llava_sea: LLaVA-style training with SEA (Supervised Embedding Alignment) in stage 1."""

__version__ = "0.1.0"
