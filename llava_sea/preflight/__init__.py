"""One page before the first real step: does it all work here, does it fit, how long will it take?

``bash scripts/preflight.sh``; each line of the page is told in ``scripts/recipes/README.md``.
"""
