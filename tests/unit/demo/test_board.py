"""Who of the demo's group processed what, and that each claim about it can fail."""

from __future__ import annotations

from rayqueue.demo.board import LATE, VICTIM, Board, check_group


def _run(*, foreign: bool = False, gap: bool = False, late: bool = True) -> Board:
    """20 flights in two partitions; the victim had processed 0 to 5 of partition 1, and committed up to 3."""
    board = Board(20)
    board.take("board-1", [(0, 0, 4)], 0.1)
    board.take(VICTIM, [(1, 0, 3), (1, 4, 5)], 0.2)
    board.killed(4711, 11, 1.0)
    board.take("board-1", [(0, 4 if foreign else 5, 6)], 1.1)
    board.take("board-3", [(1, 4, 8 if gap else 9)], 1.5)
    if late:
        board.let_in(2.0)
        board.has(LATE, [], 2.1)
        board.has(LATE, [0], 2.25)
    board.take(LATE if late else "board-1", [(0, 7, 9)], 2.5)
    return board


def _ok(board: Board, flights: int = 20) -> list[bool]:
    return [check.ok for check in check_group(board.outcome(), flights)]


def test_the_hand_over_is_told() -> None:
    board = _run()
    assert board.done
    told = board.outcome()
    assert (told.pid, told.flights, told.distinct, told.again, told.again_foreign) == (4711, 11, 20, 2, 0)
    assert told.flights_by == {"board-1": 7, VICTIM: 6, "board-3": 6, LATE: 3}
    assert told.taken == {1: "board-3"} and told.taken_s == 0.5
    assert told.joined == [0] and told.joined_s == 0.25
    assert _ok(board) == [True] * 4


def test_each_claim_can_fail() -> None:
    assert _ok(_run(gap=True)) == [False, True, True, True]
    assert _ok(_run(foreign=True)) == [True, False, True, True]
    assert not _run(late=False).done
    assert _ok(_run(late=False))[3] is False
    calm = Board(4)
    calm.take("board-1", [(0, 0, 3)], 0.1)
    assert _ok(calm, 4) == [True, True, False, False]


def test_what_the_killed_one_had_long_lost_is_no_hand_over() -> None:
    board = Board(10)
    board.take(VICTIM, [(0, 0, 1)], 0.1)
    board.take("board-1", [(0, 2, 3)], 0.2)
    board.killed(1, 4, 1.0)
    board.take("board-1", [(0, 4, 9)], 1.1)
    assert board.outcome().taken == {}
