"""Training data, checked before a run: ``python -m llava_sea.check <the training flags>``."""
