"""Numbers and strings that more than one part of the package needs, each defined once."""

IGNORE_INDEX = -100
"""Label of a token that the language-model loss leaves out."""

IMAGE_TOKEN = "<image>"
"""LLaVA's literal for "an image goes here" in the text of a record."""
