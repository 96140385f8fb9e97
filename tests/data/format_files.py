"""Rows, files and shards of the formats that people have, as tests write them."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.worlds import turns

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TEXT = {"type": "text", "text": "q"}
PAIR = {"user": "q", "assistant": "a"}


def png(colour=0):
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write(path, rows):
    """Write rows in the form that the file's name says."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return str(path)


def tar(path, members, mode="w"):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


def asked(*content):
    said = {"role": "assistant", "content": [{"type": "text", "text": "a"}]}
    return {"messages": [{"role": "user", "content": list(content)}, said]}


def held(name, colours):
    """A row of `colours`, its images in it, of the form that the name says."""
    images = [{"bytes": png(colour), "path": None} for colour in colours]
    if name == "recap":
        talk = turns("<image>\nq", "a")
        return {"id": "r", "image": images[0], "conversations": talk, "data_source": "x"}
    if name == "finevision":
        return {"images": images, "texts": [PAIR], "source": "x", "ratings": [1]}
    if name == "parts":
        parts = [{"type": "image", "image": image} for image in images]
        return asked(*parts, TEXT)
    return {"image": png(colours[0]), "messages": [QUESTION, ANSWER]}
