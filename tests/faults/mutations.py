"""Mutations of sets, runs and evaluations, and whether every reader stands them.

    python -m tests.faults.mutations --count 2000 --seed 1            # all
    python -m tests.faults.mutations --count 2000 --seed 1 --only 137 # one of them, at length

A mutation is told where a reader refuses it in one line or `verify` finds it, or has no effect
where every reader gives what it gave before. It must not change what a reader gives in silence,
end in a traceback, hang, or let anything outside the folder be written; reading commands must not
write inside it either.
"""

import argparse
import collections
import gc
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.mutation_kinds import ANOTHER, Mutation, drawn, mutate, undo
from tests.faults.mutation_readers import (
    READERS,
    Seen,
    hold_base,
    import_everything,
    in_child,
    look,
)
from tests.faults.mutation_world import TARGETS, World, build

FAULTS = ("silent", "traceback", "crash", "hang", "ugly", "wrote outside", "wrote inside")
OUTCOMES = ("no effect", "refused", "told", "another", *FAULTS)

Values = Mapping[tuple[str, str], str]  # (target, reader) -> what it gives of the whole folder
Reads = Mapping[tuple[str, str], set[str]]  # (target, reader) -> files that it opens then


def make_world(root: Path) -> World:
    """Build in a fork, so that this process has no thread when it forks again."""
    import_everything()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with (root.parent / "built.txt").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                build(root)
                status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise SystemExit((root.parent / "built.txt").read_text()[-4000:])
    world = World(root)
    world.enter()
    hold_base(world)
    gc.collect()
    gc.freeze()  # a child's collector must not copy all pages
    return world


def values_of(world: World) -> tuple[Values, Reads]:
    """What every reader gives of whole folders, and which files it opens for that."""
    values: dict[tuple[str, str], str] = {}
    reads: dict[tuple[str, str], set[str]] = {}
    for target, readers in READERS.items():
        for reader in readers:
            world.forget_reads()
            seen = look(world, reader)
            reads[target, reader.name] = world.read_files()
            if seen.status != 0 or seen.fault:
                raise SystemExit(f"{reader.name} of a whole {target}: {seen}")
            values[target, reader.name] = seen.value
            if reader.writes:
                undo(world, reader.writes)
    if not reads["set", "verify"]:
        raise SystemExit("this file system does not note what is read: mount it without noatime")
    return values, reads


def judged(world: World, values: Values, reads: Reads, seed: int, number: int) -> dict[str, Any]:
    """Mutate, let everybody read, undo.

    Where only contents changed, readers that do not open these files need not read again.

    Returns:
        number, target, kind, what; outcome; and what each reader did.
    """
    mutation, trouble = in_child(world, lambda: mutate(world, seed, number))
    if trouble:
        raise SystemExit(f"mutation {number} of seed {seed}: {trouble}")
    mutation = Mutation(*mutation)
    readers: dict[str, Seen] = {}
    outcomes: list[tuple[str, str]] = []
    contents = world.other_contents(mutation.target)
    for reader in READERS[mutation.target]:
        if contents is not None and not contents & reads[mutation.target, reader.name]:
            continue
        before = world.watched()
        seen = look(world, reader)
        after = world.watched()
        readers[reader.name] = seen
        changed = sorted(n for n in {*before, *after} if before.get(n) != after.get(n))
        outside = [n for n in changed if not _below(world, n, reader.writes)]
        if seen.fault:
            outcomes.append((seen.fault, reader.name))
        inside = str(world.at(mutation.target))
        for name in outside:
            kind = "wrote inside" if name.startswith(inside) else "wrote outside"
            outcomes.append((kind, f"{reader.name}: {name}"))
    outcomes += _effects(mutation, readers, values)
    for target in TARGETS:
        undo(world, target)
    ranked = sorted(outcomes, key=lambda one: -OUTCOMES.index(one[0]))
    return {
        **mutation._asdict(),
        "outcome": ranked[0][0],
        "why": [f"{kind}: {who}" for kind, who in ranked if kind in FAULTS],
        "readers": {name: seen._asdict() for name, seen in readers.items()},
    }


def _below(world: World, name: str, target: str | None) -> bool:
    return target is not None and f"{name}/".startswith(f"{world.at(target)}/")


def _effects(
    mutation: Mutation, readers: Mapping[str, Seen], values: Values
) -> list[tuple[str, str]]:
    """What became of the mutation, the worst last."""
    found = [("no effect", "")]
    verify = readers.get("verify")
    told = verify is not None and verify.status in {1, 2}
    if told:
        found.append(("told", "verify"))
    for name, seen in readers.items():
        if seen.status == 1:
            found.append(("told", name))
        if seen.status == 2 and not told:
            found.append(("refused", name))
        if seen.status == 0 and seen.value != values[mutation.target, name]:
            if mutation.kind in ANOTHER:
                found.append(("another", name))
            elif not told:
                found.append(("silent", name))
    return found


def used_though_damaged(results: Iterable[Mapping[str, Any]], values: Values) -> dict[str, int]:
    """Reader -> mutations that changed what it gave and that only `verify` told."""
    counts: collections.Counter[str] = collections.Counter()
    for one in results:
        for name, seen in one["readers"].items():
            other = seen["value"] != values[one["target"], name]
            if seen["status"] == 0 and other and one["outcome"] == "told":
                counts[name] += one["kind"] not in ANOTHER
    return dict(counts)


def table_of(results: Iterable[Mapping[str, Any]]) -> str:
    """Kinds against outcomes, in numbers."""
    counts: dict[tuple[str, str], collections.Counter[str]] = {}
    for one in results:
        key = one["target"], one["kind"]
        counts.setdefault(key, collections.Counter())[one["outcome"]] += 1
    order = sorted(counts, key=lambda key: (TARGETS.index(key[0]), key[1]))
    total: collections.Counter[str] = sum(counts.values(), collections.Counter())
    shown = [name for name in OUTCOMES if name in FAULTS[:2] or total[name]]
    lines = [f"{'':36}" + "".join(f"{name:>15}" for name in shown)]
    for target, kind in order:
        cells = "".join(f"{counts[target, kind][name]:>15}" for name in shown)
        lines.append(f"{target + ': ' + kind:<36}{cells}")
    lines.append(f"{'all':<36}" + "".join(f"{total[name]:>15}" for name in shown))
    return "\n".join(lines)


def run(numbers: Iterable[int], seed: int, root: Path, *, loud: bool) -> tuple[list[dict], Values]:
    """Judge some mutations in one process."""
    root.parent.mkdir(parents=True, exist_ok=True)
    world = make_world(root)
    values, reads = values_of(world)
    results = []
    for number in numbers:
        one = judged(world, values, reads, seed, number)
        results.append(one)
        if one["outcome"] in FAULTS and loud:
            print(f"{one['number']} {one['target']}: {one['kind']}: {one['what']}", *one["why"])
            sys.stdout.flush()
    return results, values


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutations, at length")
    parser.add_argument("--target", choices=TARGETS, help="only mutations of this folder")
    parser.add_argument("--kind", help="only mutations of this kind")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save", type=Path, help="JSON of everything that was seen")
    options = parser.parse_args()
    started_s = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="controlset-mutations-"))
    save = options.save and options.save.resolve()
    numbers = options.only if options.only is not None else range(options.count)
    for place, wanted in enumerate((options.target, options.kind)):
        numbers = [n for n in numbers if wanted in {None, drawn(options.seed, n)[place]}]
    try:
        parts = [list(numbers)[start :: options.workers] for start in range(options.workers)]
        results, values = _in_parts(parts, options.seed, root, loud=True)
    finally:
        os.chdir("/")
        shutil.rmtree(root, ignore_errors=True)
    if options.only is not None:
        print(json.dumps(results, indent=1))
    if save:
        save.write_text(json.dumps(results, indent=1))
    print(table_of(results))
    used = used_though_damaged(results, values)
    print("used though verify tells: " + (", ".join(f"{n} {c}" for n, c in used.items()) or "none"))
    bad = sum(one["outcome"] in FAULTS for one in results)
    seconds = time.monotonic() - started_s
    print(f"{len(results)} mutations of seed {options.seed}, {bad} faults, {seconds:.0f} s")
    return 1 if bad else 0


def _in_parts(
    parts: list[list[int]], seed: int, root: Path, *, loud: bool
) -> tuple[list[dict], Values]:
    """Each part in a process of its own; the first one's values stand for all."""
    children = []
    for place, numbers in enumerate(parts):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                found = run(numbers, seed, root / f"{place}" / "world", loud=loud)
                values = [[*key, value] for key, value in found[1].items()]
                (root / f"{place}.json").write_text(json.dumps([found[0], values]))
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise SystemExit("a part of the mutations did not end")
    results: list[dict] = []
    values: dict[tuple[str, str], str] = {}
    for place in range(len(parts)):
        found, listed = json.loads((root / f"{place}.json").read_text())
        results += found
        values |= {(target, name): value for target, name, value in listed}
    return sorted(results, key=lambda one: one["number"]), values


if __name__ == "__main__":
    sys.exit(main())
