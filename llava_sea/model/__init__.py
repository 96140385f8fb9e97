"""The model: transformers' Llava and the alignment head beside it."""
