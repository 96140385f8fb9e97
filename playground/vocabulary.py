"""The tables of the world: kinds, colours, sizes, backgrounds, signs and how people name them.

The world grows by rows: a kind is a name, a silhouette and a texture (`playground.shapes`), a
background is a name and a painter (`playground.backgrounds`). The first name of a row is the one
that captions use most; the others are synonyms. All names are lower-case.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing. `plurals` runs parallel to `names`; silhouette and texture are keys."""

    names: tuple[str, ...]
    plurals: tuple[str, ...]
    silhouette: str
    texture: str

    @property
    def name(self) -> str:
        """The name that identifies the kind."""
        return self.names[0]


@dataclass(frozen=True)
class Colour:
    """A colour: its names and the middle tone as RGB in 0..255."""

    names: tuple[str, ...]
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The name that identifies the colour."""
        return self.names[0]


@dataclass(frozen=True)
class Size:
    """A size: its names and the side of the object's box in pixels."""

    names: tuple[str, ...]
    side: int

    @property
    def name(self) -> str:
        """The name that identifies the size."""
        return self.names[0]


@dataclass(frozen=True)
class Background:
    """A background: its nouns, where a thing on it is said to be, its painter, all its true words.

    `words` holds the nouns, the phrases and their parts: what a patch of it may rightly be called.
    """

    nouns: tuple[str, ...]
    places: tuple[str, ...]
    painter: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that identifies the background."""
        return self.nouns[0]


KINDS: tuple[Kind, ...] = (
    Kind(("ball", "sphere"), ("balls", "spheres"), "disc", "plain"),
    Kind(("box", "crate"), ("boxes", "crates"), "square", "crosses"),
    Kind(("stone", "rock"), ("stones", "rocks"), "blob", "speckles"),
    Kind(("leaf",), ("leaves",), "leaf", "slanted"),
    Kind(("house", "hut"), ("houses", "huts"), "house", "bricks"),
    Kind(("fish",), ("fish",), "fish", "scales"),
    Kind(("basket",), ("baskets",), "basket", "checks"),
    Kind(("book", "notebook"), ("books", "notebooks"), "page", "lines"),
    Kind(("mug", "cup"), ("mugs", "cups"), "mug", "bars"),
    Kind(("kite",), ("kites",), "diamond", "lattice"),
    Kind(("wheel", "tire"), ("wheels", "tires"), "wheel", "rings"),
    Kind(("flower", "blossom"), ("flowers", "blossoms"), "flower", "dots"),
    Kind(("bird",), ("birds",), "bird", "zigzag"),
    Kind(("star",), ("stars",), "star", "rays"),
    Kind(("tree", "fir"), ("trees", "firs"), "tree", "triangles"),
    Kind(("shirt", "t-shirt"), ("shirts", "t-shirts"), "shirt", "plaid"),
    Kind(("car", "automobile"), ("cars", "automobiles"), "car", "frames"),
    Kind(("boat", "ship"), ("boats", "ships"), "boat", "shelves"),
    Kind(("hat", "cap"), ("hats", "caps"), "hat", "gingham"),
    Kind(("drum",), ("drums",), "drum", "hooks"),
    Kind(("lamp", "lantern"), ("lamps", "lanterns"), "lamp", "diamonds"),
    Kind(("butterfly",), ("butterflies",), "butterfly", "pips"),
    Kind(("umbrella", "parasol"), ("umbrellas", "parasols"), "umbrella", "backslanted"),
    Kind(("clock", "watch"), ("clocks", "watches"), "octagon", "tees"),
)

COLOURS: tuple[Colour, ...] = (
    Colour(("red", "crimson"), (205, 30, 35)),
    Colour(("orange",), (250, 140, 15)),
    Colour(("yellow", "golden"), (240, 220, 40)),
    Colour(("green", "emerald"), (30, 170, 50)),
    Colour(("blue", "azure"), (30, 80, 225)),
    Colour(("purple", "violet"), (140, 45, 190)),
    Colour(("pink",), (250, 130, 190)),
    Colour(("white", "ivory"), (225, 225, 220)),
    Colour(("black",), (52, 52, 58)),
    Colour(("brown", "chocolate"), (120, 72, 40)),
)

SIZES: tuple[Size, ...] = (
    Size(("small", "little", "tiny"), 16),
    Size(("large", "big"), 24),
    Size(("huge", "giant"), 56),
)

BACKGROUNDS: tuple[Background, ...] = (
    Background(
        ("grass", "lawn", "meadow"),
        ("on the {}", "lying in the {}", "on some {}"),
        "blades",
        ("grass", "lawn", "meadow", "green grass", "grassy meadow", "grassy"),
    ),
    Background(
        ("sand", "beach", "sandy beach"),
        ("on the {}", "standing on {}", "on top of the {}"),
        "grains",
        ("sand", "beach", "sandy beach", "sandy"),
    ),
    Background(
        ("water", "sea", "calm water"),
        ("in the {}", "floating on the {}", "on the {}"),
        "ripples",
        ("water", "sea", "calm water", "calm", "calm sea"),
    ),
    Background(
        ("wooden floor", "wood", "wooden planks"),
        ("on the {}", "on top of {}", "lying on the {}"),
        "planks",
        ("wooden floor", "wood", "wooden planks", "wooden", "floor", "planks"),
    ),
    Background(
        ("brick wall", "wall", "bricks"),
        ("in front of the {}", "against the {}", "hanging on the {}"),
        "courses",
        ("brick wall", "wall", "bricks", "brick"),
    ),
    Background(
        ("snow", "snowy ground", "fresh snow"),
        ("in the {}", "covered by {}", "on the {}"),
        "flakes",
        ("snow", "snowy ground", "fresh snow", "snowy", "fresh", "ground"),
    ),
    Background(
        ("carpet", "rug", "woven carpet"),
        ("on the {}", "lying on the {}", "on top of the {}"),
        "weave",
        ("carpet", "rug", "woven carpet", "woven"),
    ),
    Background(
        ("gravel", "pebbles", "gravel path"),
        ("on the {}", "standing on {}", "lying on the {}"),
        "pebbles",
        ("gravel", "pebbles", "gravel path", "path"),
    ),
    Background(
        ("sky", "clouds", "cloudy sky"),
        ("in the {}", "against the {}", "in front of the {}"),
        "clouds",
        ("sky", "clouds", "cloudy sky", "cloudy"),
    ),
)

SIGN_NOUNS = ("sign", "board")
"""What the board that a word is written on is called."""

SIGN_WORDS = ("stop", "exit", "open", "cafe", "sale", "taxi", "milk", "zoo", "bus", "hotel")
"""Words that are written in pictures, in lower case, at most five letters."""

KIND_BY_NAME = {kind.name: kind for kind in KINDS}
COLOUR_BY_NAME = {colour.name: colour for colour in COLOURS}
SIZE_BY_NAME = {size.name: size for size in SIZES}
BACKGROUND_BY_NAME = {background.name: background for background in BACKGROUNDS}
