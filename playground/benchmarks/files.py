"""A benchmark's files in memory: path to bytes, so that writing them is one step for all.

Pictures are encoded as the benchmark has them, and the content of each picture's scene is kept
beside them, so that a test can show that no training scene has it. Limits: some megabytes at most.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from playground.generate import JPEG_QUALITY
from playground.render import render_scene
from playground.scene import Scene

Row = dict[str, Any]


def encode_picture(scene: Scene, kind: str) -> bytes:
    """Draw a scene and return a picture file's bytes.

    Args:
        scene: what to draw.
        kind: the file's suffix, "jpg" or "png".
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(render_scene(scene))
    if kind == "png":
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


class Files:
    """The files of one benchmark.

    Attributes:
        folder: the benchmark's folder under the output folder; "" for the output folder itself.
        contents: bytes by path under the output folder.
        scenes: contents of scenes (`Scene.content`) by picture path, or by id where there is none.
        questions: how many questions there are.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.contents: dict[str, bytes] = {}
        self.scenes: dict[str, str] = {}
        self.questions = 0

    def path_of(self, name: str) -> str:
        """Return the path under the output folder."""
        return f"{self.folder}/{name}" if self.folder else name

    def add(self, name: str, content: bytes) -> None:
        """Add a file; each name once."""
        path = self.path_of(name)
        assert path not in self.contents, path
        self.contents[path] = content

    def add_json(self, name: str, content: object) -> None:
        """Add a JSON file."""
        text = json.dumps(content, ensure_ascii=False, indent=1)
        self.add(name, f"{text}\n".encode())

    def add_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add a file of a JSON object a line."""
        self.add(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())

    def add_picture(self, name: str, scene: Scene) -> None:
        """Add a scene's picture; the suffix decides the format."""
        self.add(name, encode_picture(scene, name.rpartition(".")[2]))
        self.scenes[self.path_of(name)] = scene.content()
