"""All miniature benchmarks on disk, with a manifest that says whether they are complete.

Everything is made in memory, then written file by file, and the manifest last; a run that was
stopped is done again and leaves no half. Files that this did not write, answers among them, stay
as they are. Limits: pictures and questions depend on the seed and the sources alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from playground.benchmarks.files import Files
from playground.benchmarks.gqa import make_gqa
from playground.benchmarks.mmbench import make_mmbench
from playground.benchmarks.mmvet import make_mmvet
from playground.benchmarks.pope import make_pope
from playground.benchmarks.scienceqa import make_scienceqa
from playground.benchmarks.text_only import make_text_only
from playground.benchmarks.textvqa import make_textvqa
from playground.benchmarks.vizwiz import make_vizwiz
from playground.benchmarks.vqav2 import make_vqav2
from playground.generate import DEFAULT_OUTPUT, generator_version
from playground.world import Split

DEFAULT_OUT = DEFAULT_OUTPUT / "mini-eval"

MAKERS: dict[str, Callable[[int, Split], Files]] = {
    "vqav2": make_vqav2,
    "gqa": make_gqa,
    "vizwiz": make_vizwiz,
    "textvqa": make_textvqa,
    "scienceqa": make_scienceqa,
    "pope": make_pope,
    "mmbench": make_mmbench,
    "mm-vet": make_mmvet,
    "text_only": make_text_only,
}
"""The eight, and the questions without a picture, by key."""

MADE_BY = "playground.benchmarks"
MANIFEST = "manifest.json"
SCENES = "scenes.json"
"""Contents of the scenes by picture path (by id where a picture has no file of its own)."""


def benchmarks_version() -> str:
    """Return a hash of the sources that the benchmarks depend on."""
    here = Path(__file__).parent
    digest = hashlib.sha256(generator_version().encode())
    for path in (here.parent / "corpus.py", *sorted(here.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_all(seed: int, split: Split = "test") -> tuple[dict[str, bytes], dict[str, int]]:
    """Make everything in memory.

    Args:
        seed: decides every scene, question and annotator.
        split: whose scenes are shown; "dev" is for choosing between settings.

    Returns:
        Bytes by path under the output folder, and the number of questions by benchmark.
    """
    contents: dict[str, bytes] = {}
    scenes: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, make in MAKERS.items():
        files = make(seed, split)
        contents |= files.contents
        scenes |= files.scenes
        counts[name] = files.questions
    contents[SCENES] = _as_json(scenes)
    return contents, counts


def _as_json(content: object) -> bytes:
    return f"{json.dumps(content, ensure_ascii=False, indent=1)}\n".encode()


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of an output folder; empty if there is none.

    Raises:
        UserError: if ``manifest.json`` is something else.
    """
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("made_by") != MADE_BY:
        raise UserError(
            f"{path} was not written by this command; give another --out "
            f"(the default is {DEFAULT_OUT})"
        )
    return found


def is_current(out: Path, seed: int, split: Split = "test") -> bool:
    """Whether the folder holds all benchmarks, made with this seed and split by these sources."""
    found = read_manifest(out)
    wanted = {"seed": seed, "version": benchmarks_version(), "complete": True}
    if {key: found.get(key) for key in wanted} != wanted or found.get("split", "test") != split:
        return False
    paths = [(out / name, size) for name, size in found["files"].items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; leave it alone if it is the same."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def build(out: Path = DEFAULT_OUT, seed: int = 0, split: Split = "test") -> dict[str, int]:
    """Make sure that a folder holds the miniature benchmarks.

    Args:
        out: the folder; it has what ``playground/data/eval`` has in LLaVA.
        seed: decides everything.
        split: whose scenes are shown, "test" or "dev".

    Returns:
        The number of questions by benchmark.

    Raises:
        UserError: the folder is a file, or holds a file of the same name that this did not write.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if is_current(out, seed, split):
        counts: dict[str, int] = read_manifest(out)["questions"]
        return counts
    old: dict[str, int] = read_manifest(out).get("files", {})
    contents, counts = make_all(seed, split)
    foreign = sorted(name for name in contents if name not in old and (out / name).exists())
    if foreign:
        raise UserError(
            f"{out / foreign[0]} exists and was not written by this command (in all "
            f"{len(foreign)} files); give another --out or move it away"
        )
    sizes = {name: len(content) for name, content in contents.items()}
    manifest = {"made_by": MADE_BY, "seed": seed, "version": benchmarks_version()}
    if split != "test":
        manifest["split"] = split
    _write(out / MANIFEST, _as_json(manifest | {"complete": False, "files": old | sizes}))
    for name, content in contents.items():
        _write(out / name, content)
    for name in old.keys() - sizes.keys():
        (out / name).unlink(missing_ok=True)
    done = {"complete": True, "questions": counts, "files": sizes}
    _write(out / MANIFEST, _as_json(manifest | done))
    return counts
