"""Find near-duplicate functions: sketch each shape, look for candidates in bands, verify exactly.

Second stage of the census. A shape's *grams* are all runs of eight nodes in it. Two shapes are
alike to the degree that they share grams (Jaccard, counted with repetition). Comparing all pairs
takes five minutes, so each shape gets a MinHash sketch: the chance that two sketches agree in
one place is their likeness. Sketches are cut into bands, and only shapes that agree in a whole band
are compared, exactly. What is found are links, and of those a *forest* is kept: the strongest that
connect each family. Nothing here knows that there is more than one process.
"""

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations
from operator import eq
from statistics import median_low
from typing import NamedTuple
from zlib import crc32

from census_measure import Figures, Place, Shape

GRAM = 8
ROWS = 4
BANDS = 12
ALIKE_MIN = 0.8
"""Of pairs this alike, 998 in 1,000 agree in all four rows of at least one of twelve bands."""

PRIME = (1 << 61) - 1
_draw = random.Random(8)
HASHES = [(_draw.randrange(1, PRIME), _draw.randrange(PRIME)) for _ in range(ROWS * BANDS)]


class Sketched(NamedTuple):
    """A shape and the bands of its sketch. Two shapes that agree in a band are candidates."""

    shape: Shape
    bands: tuple[int, ...]


class Link(NamedTuple):
    """Two functions that are alike. Sorts weakest first."""

    alike: float
    left: Place
    right: Place


class Family(NamedTuple):
    """Functions connected by links, and the weakest of the links that hold them together."""

    alike: float
    members: tuple[Place, ...]

    @property
    def copied_lines(self) -> int:
        """The lines that would go if the family were one function."""
        return median_low(place.lines for place in self.members) * (len(self.members) - 1)


def grams_of(labels: bytes) -> Counter[bytes]:
    """Every run of eight labels, and how often it occurs."""
    return Counter(labels[start : start + GRAM] for start in range(len(labels) - GRAM + 1))


def sketch_of(labels: bytes) -> "array[int]":
    """The least value of each hash over all grams; a gram's second occurrence is one of its own."""
    numbers = [
        int.from_bytes(gram, "big") << 16 | occurrence
        for gram, times in grams_of(labels).items()
        for occurrence in range(times)
    ]
    least = (
        min([(number * factor + shift) % PRIME for number in numbers]) for factor, shift in HASHES
    )
    return array("Q", least)


def sketches_of(shapes: Iterable[Shape]) -> list[Sketched]:
    """Cut each shape's sketch into bands; a number stands for each."""
    return [Sketched(shape, bands_of(sketch_of(shape.labels))) for shape in shapes]


def bands_of(values: "array[int]") -> tuple[int, ...]:
    return tuple(crc32(values[row : row + ROWS]) for row in range(0, len(values), ROWS))


def likeness(left: Counter[bytes], right: Counter[bytes]) -> float:
    """Shared grams over all grams of the two, counted with repetition."""
    shared = (left & right).total()
    return shared / (left.total() + right.total() - shared)


def candidates(
    sketched: Iterable[Sketched], part: int, parts: int
) -> Iterator[tuple[Shape, Shape]]:
    """The pairs that agree in one of this part's bands.

    A pair that agrees in several bands belongs to the first: no two parts compare the same pair.
    """
    buckets: dict[tuple[int, int], list[Sketched]] = defaultdict(list)
    for one in sketched:
        for index, band in enumerate(one.bands):
            if band % parts == part:
                buckets[index, band].append(one)
    for (index, _), bucket in buckets.items():
        for left, right in combinations(bucket, 2):
            if not any(map(eq, left.bands[:index], right.bands[:index])):
                yield left.shape, right.shape


def links_between(sketched: Iterable[Sketched], part: int, parts: int) -> list[Link]:
    """Compare this part's candidates exactly, and keep the forest of those that are alike.

    Functions of the very same shape are in all the same bands: one of them is compared, for all.
    """
    copies: dict[bytes, list[Sketched]] = defaultdict(list)
    for one in sorted(sketched):
        copies[one.shape.labels].append(one)
    links = [
        Link(1.0, first.shape.place, copy.shape.place)
        for first, *others in copies.values()
        if first.bands[0] % parts == part
        for copy in others
    ]
    grams = cache(grams_of)
    for left, right in candidates((first for first, *_ in copies.values()), part, parts):
        alike = likeness(grams(left.labels), grams(right.labels))
        if alike >= ALIKE_MIN and not encloses(left.place, right.place):
            links.append(Link(alike, left.place, right.place))
    return forest(links)


def encloses(left: Place, right: Place) -> bool:
    """Whether one function stands inside the other: then likeness is no news."""
    outer, inner = sorted((left, right), key=lambda place: place.line)
    return outer.path == inner.path and inner.line < outer.line + outer.lines


class Families:
    """Which functions are connected: each points to another of its family, the last to itself."""

    def __init__(self) -> None:
        self._next: dict[Place, Place] = {}

    def of(self, place: Place) -> Place:
        """The one that stands for the whole family."""
        while (onward := self._next.setdefault(place, place)) != place:
            self._next[place] = self._next[onward]
            place = onward
        return place

    def join(self, link: Link) -> bool:
        """Connect two families; false if they were one already."""
        left, right = self.of(link.left), self.of(link.right)
        self._next[left] = right
        return left != right


def forest(links: Iterable[Link]) -> list[Link]:
    """The strongest links that connect what all of them connect.

    A forest of two forests is the forest of everything they were made from, so they may be reduced
    in a tree of any form, and never grow beyond one link for each function.
    """
    families = Families()
    return [link for link in sorted(links, reverse=True) if families.join(link)]


def families_in(links: Iterable[Link]) -> list[Family]:
    """The connected functions, those first that would save the most lines."""
    families = Families()
    weakest: dict[Place, float] = {}
    members: dict[Place, set[Place]] = defaultdict(set)
    links = forest(links)
    for link in links:
        families.join(link)
    for link in links:
        first = families.of(link.left)
        members[first] |= {link.left, link.right}
        weakest[first] = min(link.alike, weakest.get(first, 1.0))
    found = [Family(weakest[first], tuple(sorted(places))) for first, places in members.items()]
    return sorted(found, key=lambda family: (-family.copied_lines, family.members))


class Census(NamedTuple):
    """The final table: the figures of each area of the library, and its near-duplicates."""

    areas: dict[str, Figures]
    families: list[Family]

    @property
    def total(self) -> Figures:
        return sum(self.areas.values(), Figures())
