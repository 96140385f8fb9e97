"""The paper's claims on the miniature world: plain LLaVA against SEA through both stages.

One resumable command, ``python -m playground.claims``: stage 1 as `playground.study` trains it,
stage 2 on the instruction data, then the miniature eight, scored by the package's own scorers, and
how much of its language the LLM kept. ``--report`` writes tables and a page of what is finished.
Limits: the vision tower has done its work beforehand; what a real LLM would gain is not shown.
"""
