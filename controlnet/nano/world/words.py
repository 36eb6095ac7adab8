"""What can be said of a scene: facts, captions of several wordings, and captions read back.

All but the short one say all facts, and `parse` is the inverse of `caption`: for every scene and
wording `parse(caption(scene, wording)) == facts(scene)`. Left and right of places and facings are
the picture's; of sleeves they are the person's own.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable
from typing import Literal

from controlnet.nano.scenes import COLORS
from controlnet.nano.world.layout import extent
from controlnet.nano.world.scene import (
    FACINGS,
    GROUNDS,
    PATTERNS,
    POSES,
    SKIES,
    THINGS,
    WALLS,
    Object,
    Person,
    Scene,
)

WORDINGS = 6
"""How many wordings `caption` knows."""

Relation = Literal["left of", "in front of", "on"]
"""Of the first thing to the second. Captions also say the opposites: right of, behind, under."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ObjectFacts:
    """What a caption says of a card or a solid."""

    shape: str
    color: str
    pattern: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PersonFacts:
    """What a caption says of a person."""

    pose: str
    facing: str
    shirt: str
    trousers: str
    sleeve: tuple[str, str] | None  # side and colour


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that a caption says. Equal facts are equal whatever the order they were said in."""

    ground: str
    backdrop: str
    color: str  # of the backdrop
    things: tuple[ObjectFacts | PersonFacts, ...]  # sorted
    relations: tuple[tuple[int, Relation, int], ...]  # numbers of things; sorted


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShortFacts:
    """What a short caption says."""

    ground: str
    backdrop: str
    color: str  # of the backdrop
    things: tuple[tuple[str, str], ...]
    """From left to right: a shape and its colour, or "person" and the colour of the shirt."""
    poses: tuple[str, ...]  # of the people among them


def facts(scene: Scene) -> Facts:
    """What is true of a scene, as far as captions speak of it."""
    chain, joined = _chain(scene)
    place = scene.place
    described = [_described(thing) for thing in scene.things]
    pairs = [(described[a], relation, described[b]) for a, relation, b in joined]
    pairs += [(described[top], "on", described[base]) for top, base in chain if top is not None]
    return _facts(place.ground, place.backdrop, place.color, described, pairs)


def caption(scene: Scene, wording: int) -> str:
    """A sentence with all facts of a scene.

    Args:
        scene: what is drawn.
        wording: 0 to WORDINGS - 1, or any other number, counted round.
    """
    place = scene.place
    wording = wording % WORDINGS
    things = _said_chain(scene, backwards=wording in {2, 4}, pose_first=wording in {1, 2, 3})
    ground = f"{place.ground} ground"
    behind = f"{'under' if place.backdrop == 'sky' else 'against'} {_a(place.color)} "
    behind += place.backdrop
    if wording == 1:
        return f"on {ground} {behind}, {things}"
    if wording == 3:
        return (
            f"there is {things}, the ground is {place.ground} "
            f"and the {place.backdrop} is {place.color}"
        )
    if wording == 4:
        count = len(scene.things)
        number = f"{_NUMBERS[count - 1]} thing{'' if count == 1 else 's'}"
        return f"{number} on {ground} {behind}: {things}"
    if wording == 5:
        return f"{behind}, {things} on {ground}"
    return f"{things} on {ground} {behind}"


def short_caption(scene: Scene) -> str:
    """The things with their colours, the people's poses, ground and backdrop, in one order.

    From left to right, what stands on a thing before it. Says neither patterns nor relations, so
    that a small network can learn it.
    """
    place = scene.place
    groups, _ = _chain(scene)
    shown = [scene.things[number] for group in groups for number in group if number is not None]
    said = [
        f"{_a(thing.pose)} person in {thing.shirt}"
        if isinstance(thing, Person)
        else f"{_a(thing.color)} {thing.shape}"
        for thing in shown
    ]
    things = " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))
    behind = "under" if place.backdrop == "sky" else "against"
    return f"{things} on {place.ground} ground {behind} {_a(place.color)} {place.backdrop}"


def short_facts(text: str) -> ShortFacts | None:
    """What a short caption says; None: it is none."""
    match = _SHORT.fullmatch(text)
    if match is None:
        return None
    found = [_SHORT_THING.fullmatch(said) for said in re.split(" ?, | and ", match["things"])]
    things = [
        ("person", said["shirt"]) if said["shape"] is None else (said["shape"], said["color"])
        for said in found
        if said is not None
    ]
    if len(things) < len(found):
        return None
    backdrop = "sky" if match["sky"] is not None else "wall"
    return ShortFacts(
        ground=match["ground"],
        backdrop=backdrop,
        color=match[backdrop],
        things=tuple(things),
        poses=tuple(said["pose"] for said in found if said is not None and said["pose"]),
    )


def parse(text: str) -> Facts | None:
    """The facts that a caption says; None: it is of another grammar."""
    for sentence in _SENTENCES:
        match = sentence.fullmatch(text)
        chain = None if match is None else _read_chain(match["chain"])
        if match is None or chain is None:
            continue
        found = match.groupdict()
        things, pairs = chain
        count = found.get("count")
        if count is not None and _NUMBERS.index(count) + 1 != len(things):
            return None
        backdrop = "sky" if found["sky"] is not None else "wall"
        return _facts(found["ground"], backdrop, found[backdrop], things, pairs)
    return None


# what is said ------------------------------------------------------------------------------------

_NUMBERS = ("one", "two", "three", "four")
_FORWARDS: dict[str, str] = {
    "left of": "to the left of",
    "right of": "to the right of",
    "in front of": "in front of",
    "behind": "behind",
    "on": "on",
    "under": "under",
}
_MEANS = {said: relation for relation, said in _FORWARDS.items()}
_OPPOSITE = {"left of": "right of", "in front of": "behind", "behind": "in front of"}


def _described(thing: Object | Person) -> ObjectFacts | PersonFacts:
    if isinstance(thing, Person):
        return PersonFacts(
            pose=thing.pose,
            facing=thing.facing,
            shirt=thing.shirt,
            trousers=thing.trousers,
            sleeve=thing.sleeve,
        )
    return ObjectFacts(shape=thing.shape, color=thing.color, pattern=thing.pattern)


_Group = tuple[int | None, int]
"""A thing on the ground (second), and what stands on it (first)."""


def _chain(scene: Scene) -> tuple[list[_Group], list[tuple[int, str, int]]]:
    """Things from left to right, each with what stands on it, and how neighbours stand."""
    extents = [extent(scene.camera, thing) for thing in scene.things]
    tops = {
        thing.stands_on: number
        for number, thing in enumerate(scene.things)
        if thing.stands_on is not None
    }
    bases = [number for number, thing in enumerate(scene.things) if thing.stands_on is None]
    bases.sort(key=lambda number: extents[number].left + extents[number].right)
    joined = []
    for one, other in itertools.pairwise(bases):
        if extents[one].is_apart(extents[other]):
            relation = "left of"
        else:
            ahead = extents[one].near_m < extents[other].near_m
            relation = "in front of" if ahead else "behind"
        joined.append((one, relation, other))
    return [(tops.get(number), number) for number in bases], joined


def _facts(
    ground: str,
    backdrop: str,
    color: str,
    things: list[ObjectFacts | PersonFacts],
    pairs: list[tuple[ObjectFacts | PersonFacts, str, ObjectFacts | PersonFacts]],
) -> Facts:
    """Facts in their one order, relations in their one direction."""
    ordered = sorted(things, key=repr)
    relations = []
    for one, relation, other in pairs:
        if relation in {"right of", "behind", "under"}:
            relation = {"right of": "left of", "behind": "in front of", "under": "on"}[relation]
            one, other = other, one
        relations.append((ordered.index(one), relation, ordered.index(other)))
    return Facts(
        ground=ground,
        backdrop=backdrop,
        color=color,
        things=tuple(ordered),
        relations=tuple(sorted(relations)),
    )


def _said_chain(scene: Scene, *, backwards: bool, pose_first: bool) -> str:
    chain, joined = _chain(scene)
    links = [relation for _, relation, _ in joined]
    if backwards:
        chain, links = chain[::-1], [_OPPOSITE[relation] for relation in links[::-1]]
    said = []
    for place, (top, base) in enumerate(chain):
        if place:
            said.append(_FORWARDS[links[place - 1]])
        group = [] if top is None else [top]
        group.append(base)
        if top is not None and backwards:
            group.reverse()
        words = [_said(scene.things[number], pose_first=pose_first) for number in group]
        said.append((" under " if backwards else " on ").join(words))
    return " ".join(said)


def _said(thing: Object | Person, *, pose_first: bool) -> str:
    if isinstance(thing, Object):
        pattern = "" if thing.pattern == "plain" else f"{thing.pattern} "
        return f"{_a(f'{pattern}{thing.color}')} {thing.shape}"
    facing = "the viewer" if thing.facing == "viewer" else thing.facing
    wears = f"in {thing.shirt} and {thing.trousers}"
    if thing.sleeve is not None:
        side, color = thing.sleeve
        wears += f" with {_a(color)} {side} sleeve"
    if pose_first:
        return f"a {thing.pose} person {wears} facing {facing}"
    return f"a person {wears} {thing.pose} and facing {facing}"


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


# what is read ------------------------------------------------------------------------------------


def _any_of(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


_COLOR, _POSE = _any_of(COLORS), _any_of(POSES)
_THING = re.compile(
    rf"an? (?:(?P<pose>{_POSE}) )?person in (?P<shirt>{_COLOR}) and (?P<trousers>{_COLOR})"
    rf"(?: with an? (?P<sleeve>{_COLOR}) (?P<side>left|right) sleeve)?"
    rf"(?: (?P<other_pose>{_POSE}) and)? facing (?:the )?(?P<facing>{_any_of(FACINGS)})"
    rf"|an? (?:(?P<pattern>{_any_of(PATTERNS[1:])}) )?(?P<color>{_COLOR})"
    rf" (?P<shape>{_any_of(THINGS)})"
)
_LINK = re.compile(rf" ({_any_of(_FORWARDS.values())}) ")
_ON = rf"on (?P<ground>{_any_of(GROUNDS)}) ground"
_BEFORE = (
    rf"(?:under an? (?P<sky>{_any_of(SKIES)}) sky|against an? (?P<wall>{_any_of(WALLS)}) wall)"
)
_SENTENCES = [
    re.compile(form)
    for form in (
        rf"(?P<chain>.+) {_ON} {_BEFORE}",
        rf"{_ON} {_BEFORE}, (?P<chain>.+)",
        rf"there is (?P<chain>.+), the ground is (?P<ground>{_any_of(GROUNDS)}) and the "
        rf"(?:sky is (?P<sky>{_any_of(SKIES)})|wall is (?P<wall>{_any_of(WALLS)}))",
        rf"(?P<count>{_any_of(_NUMBERS)}) things? {_ON} {_BEFORE}: (?P<chain>.+)",
        rf"{_BEFORE}, (?P<chain>.+) {_ON}",
    )
]


_SHORT = re.compile(rf"(?P<things>.+) {_ON} {_BEFORE}")
_SHORT_THING = re.compile(
    rf"an? (?:(?P<pose>{_POSE}) person in (?P<shirt>{_COLOR})"
    rf"|(?P<color>{_COLOR}) (?P<shape>{_any_of(THINGS)}))"
)


def _read_chain(text: str) -> tuple[list[ObjectFacts | PersonFacts], list[tuple]] | None:
    """Things from left to right or back, and their relations; None: no chain."""
    things, pairs, links, at, link = [], [], [], 0, ""
    bases = []  # what stands on the ground: neighbours are beside these
    while (match := _THING.match(text, at)) is not None:
        thing = _thing(match)
        if thing is None or thing in things:
            return None
        things.append(thing)
        if link in {"on", "under"}:
            pairs.append((bases[-1], link, thing))
            bases[-1] = thing if link == "on" else bases[-1]
        else:
            bases.append(thing)
            links.append(link)
        at = match.end()
        if at == len(text):
            pairs += zip(bases, links[1:], bases[1:], strict=False)
            return things, pairs
        joint = _LINK.match(text, at)
        if joint is None:
            return None
        link, at = _MEANS[joint[1]], joint.end()
    return None


def _thing(match: re.Match[str]) -> ObjectFacts | PersonFacts | None:
    found = match.groupdict()
    if found["shape"] is not None:
        return ObjectFacts(
            shape=found["shape"], color=found["color"], pattern=found["pattern"] or "plain"
        )
    poses = [pose for pose in (found["pose"], found["other_pose"]) if pose is not None]
    if len(poses) != 1:
        return None
    return PersonFacts(
        pose=poses[0],
        facing=found["facing"],
        shirt=found["shirt"],
        trousers=found["trousers"],
        sleeve=None if found["side"] is None else (found["side"], found["sleeve"]),
    )


WORDS = tuple(
    sorted(
        {
            *COLORS,
            *THINGS,
            *PATTERNS[1:],
            *POSES,
            *FACINGS,
            *_NUMBERS,
            *" ".join(_FORWARDS.values()).split(),
            *("a", "an", "and", "person", "with", "sleeve", "facing", "the", "there", "is"),
            *("thing", "things", "ground", "sky", "wall", "against"),
        }
    )
)
"""Every word of every caption."""
