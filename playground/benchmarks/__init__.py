"""The miniature eight: a small version of each benchmark, in its official file format.

``python -m playground.benchmarks`` writes them in LLaVA's layout, from scenes of the test split, so
that the code which asks and scores reads miniature and real files alike. A benchmark is a function
from a seed to files (`playground.benchmarks.build.MAKERS`). Limits: the questions are the miniature
world's; only the forms are the benchmarks'.
"""
