"""The one place through which models, tokenizers and processors of a checkpoint are loaded.

A checkpoint may bring code of its own (``auto_map``). Left to themselves, transformers' Auto
classes ask on stdin whether to run it, and whoever pipes in a "y" runs it. It is never run here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from llava_sea.errors import UserError

WRONG_FORM = (ArithmeticError, AttributeError, LookupError, TypeError, StrictDataclassError)
"""Raised by transformers on settings of a wrong form: it takes files to be as it writes them."""


class WrongForm(UserError):
    """A checkpoint's JSON file is damaged."""


def load_pretrained(kind: Any, path: str | Path | None, **options: Any) -> Any:
    """Return ``kind.from_pretrained(path, **options)``, without running code of the checkpoint.

    `path` is None where the options hold the weights.

    Raises:
        UserError: if the checkpoint cannot be used without its code, is of another kind, or one of
            its files is damaged.
    """
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path}: cannot be used without the code that it brings (auto_map in its JSON "
                "files), and such code is never run here; take a model that transformers knows"
            ) from None
        other = re.match(r"Unrecognized configuration class <class '(?:\w+\.)*(\w+)'>", str(error))
        if other is None:
            raise
        needed = "a language model" if "CausalLM" in kind.__name__ else f"one for {kind.__name__}"
        raise UserError(
            f"{path}: is a model of another kind (its config.json makes a {other[1]}); {needed} is "
            "needed here"
        ) from None
    except WRONG_FORM as error:
        reason = " ".join(str(error).split())[:200]
        raise WrongForm(
            f"{path or 'config.json'}: cannot be loaded ({type(error).__name__}: {reason}); a JSON "
            "file there is damaged or of another model, fetch it again"
        ) from error
    except RuntimeError as error:
        if "negative dimension" in str(error):
            raise WrongForm(
                f"{path or 'config.json'}: names a size below 0 ({error}); fetch config.json again"
            ) from error
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            f"{path}: its weights do not have the shapes that its config.json names; fetch both "
            "from the same place"
        ) from None


def without_code(settings: Any) -> Any:
    """Return a checkpoint's settings without any ``auto_map``: models are made of them, too."""
    if isinstance(settings, dict):
        return {key: without_code(value) for key, value in settings.items() if key != "auto_map"}
    return [without_code(value) for value in settings] if isinstance(settings, list) else settings


def pick_device(name: str | None) -> torch.device:
    """Take the device that was asked for, else CUDA if it is there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {name}: not on this machine ({reason}); try cpu") from None
    return device
