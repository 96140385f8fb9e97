"""What SEA changes in stage 1, on the miniature world: plain LLaVA against four kinds of SEA.

One resumable command, ``python -m playground.study``: it makes what it needs (`prepare`), trains a
projector for every LLM, length, arm and seed (`run`), and writes tables and a picture (`report`).
The losses, the labels, the data path and the measures are the package's own; what is the study's is
that the vision tower has done its work beforehand.
"""
