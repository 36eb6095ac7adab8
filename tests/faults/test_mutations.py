"""The mutation machine over sets, runs and evaluations, and what it makes of what readers do.

Ten are in `make test`, which costs a minute, most of it for the set, run and evaluation that are
mutated. `make test-all` tries all 2,000, which takes 22 minutes; `.ci/run` has `make test` try more
than ten instead (CONTROLSET_MUTATIONS).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.mutation_kinds import Mutation
from tests.faults.mutation_readers import Seen
from tests.faults.mutations import OUTCOMES, _effects

_REPOSITORY = Path(__file__).parents[2]
_FEW = os.environ.get("CONTROLSET_MUTATIONS")
_ALL = [pytest.mark.slow, pytest.mark.skipif(_FEW is not None, reason="a few are in `make test`")]


@pytest.mark.parametrize(
    ("count", "workers"), [(_FEW or "10", "1"), pytest.param("2000", "2", marks=_ALL)]
)
def test_no_mutation_is_used_in_silence_crashes_a_reader_or_leaves_its_folder(count, workers):
    words = ["tests.faults.mutations", "--count", count, "--seed", "1", "--workers", workers]
    done = subprocess.run(  # in a process of its own: forks must not have this one's threads
        [sys.executable, "-m", *words],
        cwd=_REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{count} mutations of seed 1, 0 faults" in done.stdout


WHOLE = {("set", "verify"): "", ("set", "open"): "as it was"}
FINE = Seen(0, "", "", "")


def effect(verify, opened, kind="bit flipped"):
    mutation = Mutation(0, "set", kind, "")
    effects = _effects(mutation, {"verify": verify, "open": opened}, WHOLE)
    return max((name for name, _ in effects), key=OUTCOMES.index)


def test_other_values_are_silent_unless_verify_tells():
    other = Seen(0, "another", "", "")
    assert effect(FINE, other) == "silent"
    assert effect(Seen(1, "", "", ""), other) == "told"
    assert effect(FINE, other, kind="resealed") == "another"
    assert effect(FINE, Seen(0, "as it was", "", "")) == "no effect"
    assert effect(FINE, Seen(2, "", "", "")) == "refused"
