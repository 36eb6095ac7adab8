"""What the mutation machine makes of what readers do (`python -m tests.faults.mutations`)."""

from tests.faults.mutation_kinds import Mutation
from tests.faults.mutation_readers import Seen
from tests.faults.mutations import OUTCOMES, _effects

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
