"""Words that are written in an image, as an OCR found them: labels of the patches that show them.

``--sea_ocr FILE``: rows that name an image and its words with their boxes; the forms are in
`llava_sea/labels/README.md`. A text becomes words as captions do (`phrases`), each with its share
of the box by characters; words that the list lacks are added to it. Boxes go to the patch grid as
the pixels do (`place`). Limits: the corpus's words are held in memory, 33 bytes each
and some ten times as much while they are read.

Shape letters: W written words, P patches, N labels of a patch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_sea.data.images import MAX_CROP_RATIO
from llava_sea.data.read_records import BrokenRow, read_rows
from llava_sea.data.row_shapes import BadShape, image_names
from llava_sea.errors import UserError
from llava_sea.files import open_file, read_json
from llava_sea.labels.phrases import BOUNDARY, POSSESSIVE, TOKEN, fold, split_tokens
from llava_sea.labels.words_file import WordEntry

OCR_POS = "ocr"  # of the words that no caption holds

_KEYS = ("ocr", "words", "ocr_info")
_LARGEST_SHARE = 2.0  # coordinates up to this are shares of the image: some OCRs go over the edge
_LEAST_COVER = 0.2  # of a patch; smaller writing is not legible
_SHARE_OF_BEST = 0.5
_LARGEST = 1e6  # pixels of a side: a coordinate beyond them is none
_MOST_WORDS = 10_000  # of an image: each is held against each patch

_ROW = np.dtype(
    [("image", np.int64), ("word", np.int64), ("is_share", np.bool_), ("box", np.float32, 4)]
)


class WrittenWords(NamedTuple):
    """The written words of a corpus's images, in the images' order."""

    rows_W: NDArray[Any]

    def label(
        self,
        image: int,
        size: tuple[int, int],
        geometry: dict[str, Any],
        grid: tuple[int, int],
        ids_PN: NDArray[np.uint32],
        scores_PN: NDArray[np.float32],
    ) -> list[float]:
        """Put an image's written words before the labels of the patches that show them. In place.

        Args:
            image: its place in the corpus.
            size: its width and height in pixels.
            geometry: that of the encoder's `ImageTransform`.
            grid: rows and columns of patches.
            ids_PN: mined labels, best first.
            scores_PN: their scores; a written word has the best one's, or 1 where there is none.

        Returns:
            The first box that lies outside the image, as it was read; [] if none does.
        """
        first, end = np.searchsorted(self.rows_W["image"], [image, image + 1])
        if first == end:
            return []
        rows_W = self.rows_W[first:end]
        shares_W4 = np.where(rows_W["is_share"][:, None], 1, 1 / np.tile(size, 2)) * rows_W["box"]
        first_2, last_2 = place(geometry, *size)
        cover_WP = coverage(np.tile(first_2, 2) + shares_W4 * np.tile(last_2 - first_2, 2), grid)
        least_W1 = np.maximum(cover_WP.max(1, keepdims=True) * _SHARE_OF_BEST, _LEAST_COVER)
        shown_WP = cover_WP >= least_W1
        for patch in np.flatnonzero(shown_WP.any(0)):
            order = np.argsort(-cover_WP[:, patch], kind="stable")
            written = rows_W["word"][order[shown_WP[order, patch]]].tolist()
            labels = dict.fromkeys(written, float(scores_PN[patch, 0]) or 1.0)
            for word, score in zip(ids_PN[patch].tolist(), scores_PN[patch].tolist(), strict=True):
                if score > 0:
                    labels.setdefault(word, score)
            ids_PN[patch], scores_PN[patch] = 0, 0
            for rank, (word, score) in enumerate([*labels.items()][: ids_PN.shape[1]]):
                ids_PN[patch, rank], scores_PN[patch, rank] = word, score
        outside_W = (shares_W4[:, :2] >= 1).any(1) | (shares_W4[:, 2:] <= 0).any(1)
        return rows_W["box"][outside_W][:1].ravel().tolist()


def place(geometry: dict[str, Any], width: int, height: int) -> NDArray[np.float64]:
    """Return where an image of this size lies in a tower's pixels: its first and last corner.

    Each is (x, y) in shares of the pixels' width and height; what is cut off is outside 0 to 1.
    """
    resize, crop = geometry["resize"], geometry["crop"]
    size_2 = np.array([width, height])
    corner_2, whole_2 = np.zeros(2, np.int64), size_2  # the image in what is resized
    if geometry["aspect_ratio"] == "pad":
        whole_2 = np.full(2, size_2.max())
        corner_2 = (whole_2 - size_2) // 2
    elif crop and "shortest_edge" in resize:
        corner_2 = -np.maximum(0, (size_2 - size_2.min() * MAX_CROP_RATIO) // 2)
        whole_2 = size_2 + 2 * corner_2
    if "shortest_edge" in resize:
        resized_2 = resize["shortest_edge"] * whole_2 // whole_2.min()
    else:
        resized_2 = np.array([resize["width"], resize["height"]])
    final_2 = np.array(geometry["resolution"][::-1])
    cut_2 = (resized_2 - final_2) // 2 if crop else np.zeros(2, np.int64)
    ends_22 = np.stack([corner_2, corner_2 + size_2]) * (resized_2 / whole_2)
    return np.asarray((ends_22 - cut_2) / final_2)


def coverage(boxes_W4: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of each patch that each box covers, ``(W, P)``.

    Boxes are left, top, right, bottom in shares of the pixels' width and height.
    """

    def along(low_W: NDArray[Any], high_W: NDArray[Any], count: int) -> NDArray[Any]:
        edges = np.arange(count)
        low, high = low_W[:, None] * count, high_W[:, None] * count
        return np.clip(np.minimum(high, edges + 1) - np.maximum(low, edges), 0, 1)

    down_WR = along(boxes_W4[:, 1], boxes_W4[:, 3], grid[0])
    across_WC = along(boxes_W4[:, 0], boxes_W4[:, 2], grid[1])
    return (down_WR[:, :, None] * across_WC[:, None, :]).reshape(len(boxes_W4), -1)


def read_written(
    path: str, images: Sequence[str], entries: Sequence[WordEntry]
) -> tuple[list[WordEntry], WrittenWords]:
    """Read the written words of a corpus's images.

    Args:
        path: the file of ``--sea_ocr``.
        images: the corpus's images.
        entries: the word list.

    Returns:
        The list with the words that it lacked, and where each written word stands.

    Raises:
        UserError: naming the file, the row and the image, if a row is of no known form; if the
            file says nothing of these images.
    """
    of_name, of_stem = (defaultdict[str, list[int]](list) for _ in range(2))
    for number, name in enumerate(images):
        of_name[name].append(number)
        of_stem[Path(name).stem].append(number)
    found: list[tuple[int, str, bool, list[float]]] = []
    known = 0
    for name, is_stem, items, where in _rows(path):
        numbers = (of_stem if is_stem else of_name).get(name, [])
        if not numbers:
            continue
        if len(numbers) > 1:
            raise UserError(
                f'{where}: --data_path has {len(numbers)} images of that "image_id" '
                f"({images[numbers[0]]!r}, {images[numbers[1]]!r}); name the one that is meant as "
                '"image"'
            )
        number = numbers[0]
        known += 1
        texts = [_read_item(item, where) for item in items]
        is_share = max((max(box) for _, box in texts), default=0) <= _LARGEST_SHARE
        for text, box in texts:
            found += [(number, word, is_share, part) for word, part in split_text(text, box)]
    if not known:
        raise UserError(
            f"--sea_ocr {path}: no row is about an image of --data_path ({images[0]!r} and so on); "
            'rows have "image", named as there, and "words" (or "ocr")'
        )
    listed = {entry.word for entry in entries}
    missing = {word for _, word, _, _ in found} - listed
    whole = sorted(
        [*entries, *(WordEntry(word, 0, OCR_POS) for word in missing)], key=WordEntry.sort_key
    )
    id_of = {entry.word: number for number, entry in enumerate(whole)}
    rows = sorted((image, id_of[word], share, tuple(box)) for image, word, share, box in found)
    image, most = max(Counter(row[0] for row in rows).items(), key=itemgetter(1), default=(0, 0))
    if most > _MOST_WORDS:
        raise UserError(
            f"--sea_ocr {path}: image {images[image]!r} has {most:,} words, at most "
            f"{_MOST_WORDS:,} are read; a page of text has some hundred, look at its row"
        )
    return whole, WrittenWords(np.array(rows, _ROW))


def split_text(text: str, box: Sequence[float]) -> Iterator[tuple[str, list[float]]]:
    """Yield the words of a text that a word list may hold, each with its part of the box."""
    folded = POSSESSIVE.sub("", fold(text)).strip()
    left, top, right, bottom = box
    width = (right - left) / max(len(folded), 1)
    for match in TOKEN.finditer(folded):
        word = match[0]
        if split_tokens(word) != [BOUNDARY] and len(word) > 1:
            yield word, [left + width * match.start(), top, left + width * match.end(), bottom]


def _rows(path: str) -> Iterator[tuple[str, bool, list[Any], str]]:
    """Yield the rows that have words: the image's name or stem, which it is, words and place."""
    for number, row in enumerate(_values(path)):
        where = f"--sea_ocr {path}: row {number}"
        if isinstance(row, BrokenRow):
            raise UserError(f"{where}: {row}")
        if not isinstance(row, dict):
            raise UserError(f'{where}: is no object like {{"image": ..., "words": [...]}}')
        items = next((row[key] for key in _KEYS if row.get(key) is not None), None)
        if items is None:
            continue  # a record without writing
        try:
            names = image_names(row, number, path)
        except BadShape as error:
            raise UserError(f"{where}: {error}") from None
        name = names[0] if names else row.get("image_id")
        if not isinstance(name, (str, int)):
            raise UserError(f'{where}: names no image; give it as "image", as --data_path does')
        where += f" (image {name!r})"
        if not isinstance(items, list):
            raise UserError(f'{where}: its words must be a list of {{"text": ..., "box": ...}}')
        yield str(name), not names, items, where


def _values(path: str) -> Iterator[Any]:
    """Yield a file's rows; TextVQA's files have them in "data"."""
    with open_file(path) as file:
        is_object = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    if Path(path).suffix.lower() != ".json" or not is_object:
        yield from read_rows(path)
        return
    rows = read_json(path, None).get("data")
    if not isinstance(rows, list):
        raise UserError(
            f'--sea_ocr {path}: one object without a list "data"; write a list of rows, or name '
            "the file .jsonl with one row a line"
        )
    yield from rows


def _read_item(item: Any, where: str) -> tuple[str, list[float]]:
    """Return a text and its box: left, top, right, bottom."""
    word = item if isinstance(item, dict) else {}
    text = next((word[key] for key in ("text", "word") if key in word), None)
    box = next((word[key] for key in ("box", "bounding_box") if key in word), None)
    try:
        if isinstance(box, dict):
            keys = ("top_left_x", "top_left_y", "width", "height")
            left, top, width, height = (float(box[key]) for key in keys)
            box = [left, top, left + width, top + height]
        numbers = np.array(box, np.float64)
        if numbers.shape == (4,):
            numbers = numbers.reshape(2, 2)
            if (numbers[0] > numbers[1]).any():
                raise UserError(
                    f"{where}: {str(item)[:100]} has a box that ends before it begins; it must be "
                    "left, top, right, bottom (not width and height)"
                )
        if numbers.ndim != 2 or numbers.shape[1] != 2 or not (abs(numbers) <= _LARGEST).all():
            raise ValueError
        corners = [*numbers.min(0).tolist(), *numbers.max(0).tolist()]
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError):
        corners = []
    if not isinstance(text, str) or not corners:
        raise UserError(
            f'{where}: {str(item)[:100]} is no word; it has a "text" and a "box" of left, top, '
            "right, bottom (or its corners), in pixels or in shares of the image"
        )
    return text, corners
