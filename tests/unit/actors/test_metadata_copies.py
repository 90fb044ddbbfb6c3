"""Which of two copies of the metadata with one number is started: the one that the newest log names."""

from __future__ import annotations

from itertools import permutations

from rayqueue.actors.metadata_copies import Copy, choose
from rayqueue.coordination.quorum.messages import Membership, Voter

ZERO, ONE, TWO = (Voter(number, "old") for number in range(3))
NEW_ONE = Voter(1, "new")
BEFORE = Membership((ZERO, ONE, TWO))
AFTER = Membership((ZERO, TWO, NEW_ONE))


def chosen(*copies: Copy) -> dict[int, Voter]:
    """The same whatever order the nodes come in."""
    answers = [{number: one.me for number, one in choose(some).items()} for some in permutations(copies)]
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def test_the_one_that_votes_by_the_newest_log() -> None:
    zero, one, two = Copy(ZERO, (7, 90), AFTER), Copy(ONE, (4, 50), BEFORE), Copy(TWO, (7, 91), AFTER)
    assert chosen(zero, one, two, Copy(NEW_ONE, (7, 91), AFTER)) == {0: ZERO, 1: NEW_ONE, 2: TWO}
    assert chosen(zero, one, two, Copy(NEW_ONE, (5, 60), AFTER)) == {0: ZERO, 1: NEW_ONE, 2: TWO}, "it has to catch up"
    assert chosen(one, Copy(NEW_ONE, (7, 80), AFTER)) == {1: NEW_ONE}, "the others are not back yet"


def test_one_that_has_only_begun_to_listen_does_not_take_the_place_of_the_one_that_votes() -> None:
    begun = Membership((ZERO, ONE, TWO), (NEW_ONE,))
    copies = [Copy(ZERO, (7, 90), begun), Copy(ONE, (4, 50), BEFORE), Copy(TWO, (7, 90), begun)]
    assert chosen(*copies, Copy(NEW_ONE, (7, 90), begun))[1] == ONE
    gone = Membership((ZERO, TWO), (NEW_ONE,))
    copies = [Copy(ZERO, (7, 92), gone), Copy(ONE, (4, 50), BEFORE)]
    assert chosen(*copies, Copy(NEW_ONE, (0, 0), Membership()))[1] == NEW_ONE


def test_a_later_epoch_counts_before_a_longer_log_and_what_cannot_be_read_last() -> None:
    assert chosen(Copy(ONE, (4, 500), BEFORE), Copy(NEW_ONE, (7, 20), AFTER)) == {1: NEW_ONE}
    assert chosen(Copy(ONE, (4, 50), BEFORE), Copy(Voter(1, "x"), (-1, -1), Membership())) == {1: ONE}
    stranger = Voter(1, "third")
    copies = [Copy(ZERO, (7, 90), AFTER), Copy(ONE, (4, 50), BEFORE), Copy(stranger, (5, 60), BEFORE)]
    assert chosen(*copies)[1] == stranger, "neither votes"
