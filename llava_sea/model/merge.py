"""``python -m llava_sea.model.merge``: LLaVA's name for merging a LoRA adapter into its base.

Takes ``--model-path --model-base --save-model-path`` and does what `llava_sea.model.export` does.
"""

from llava_sea.errors import run_command
from llava_sea.model.export import main

if __name__ == "__main__":
    run_command(main)
