"""What follows from a death: pure, by table."""

from __future__ import annotations

import signal

import pytest

from shmq.errors import ConfigError
from shmq.workers.judgement import (
    EXIT_CLEAN,
    EXIT_FAILED,
    EXIT_HALT,
    Action,
    BeatWatch,
    Exit,
    Policy,
    hint,
    judge,
    pause_ms,
)

POLICY = Policy(restarts_max=3, restarts_window_ms=1000)


def died(
    at_ms: int = 0,
    *,
    role: str = "writer",
    code: int | None = None,
    number: int | None = signal.SIGKILL,
    ready: bool = True,
    why: str = "",
) -> Exit:
    return Exit(role, 1, at_ms, code, None if code is not None else number, ready, why)


@pytest.mark.parametrize(
    "exit_", [died(), died(code=EXIT_FAILED), died(code=EXIT_CLEAN), died(number=signal.SIGSEGV)]
)
def test_a_first_death_is_forgiven_at_once(exit_: Exit) -> None:
    verdict = judge([exit_], POLICY)
    assert (verdict.action, verdict.pause_ms) == (Action.RESTART, 0)
    assert exit_.how() in verdict.reason


def test_before_ready_nothing_is_forgiven() -> None:
    verdict = judge([died(ready=False)], POLICY)
    assert verdict.action is Action.HALT
    assert "boot failed" in verdict.reason


def test_a_role_that_says_so_is_believed() -> None:
    assert judge([died(code=EXIT_HALT)], POLICY).action is Action.HALT


@pytest.mark.parametrize(("count", "action"), [(3, Action.RESTART), (4, Action.HALT)])
def test_deaths_in_the_window_are_counted(count: int, action: Action) -> None:
    assert judge([died(at_ms) for at_ms in range(count)], POLICY).action is action


def test_deaths_long_ago_and_of_others_do_not_count() -> None:
    long_ago = [died(at_ms) for at_ms in range(10)]
    others = [died(2000, role="flush") for _ in range(10)]
    assert judge([*long_ago, *others, died(2000)], POLICY).action is Action.RESTART
    edge = [died(0), died(0), died(0), died(1000)]
    assert judge(edge, POLICY).action is Action.RESTART
    assert judge([*edge[:3], died(999)], POLICY).action is Action.HALT


def test_no_restarts_at_all() -> None:
    assert judge([died()], Policy(0, 1000)).action is Action.HALT


def test_pauses_double_up_to_a_limit() -> None:
    assert [pause_ms(count) for count in range(1, 10)] == [
        0, 0, 0, 100, 200, 400, 800, 800, 800,
    ]  # fmt: skip
    assert pause_ms(10_000) == 800


def test_how_it_ended() -> None:
    assert died().how() == "killed by SIGKILL"
    assert died(number=63).how() in {"killed by 63", "killed by SIGRTMAX-1"}
    assert died(number=99).how() == "killed by 99"
    assert died(code=3).how() == "exit code 3"
    assert died(why="stuck").how() == "killed by SIGKILL (stuck)"


@pytest.mark.parametrize(
    ("exit_", "word"),
    [
        (died(), "OOM"),
        (died(number=signal.SIGBUS), "compiled code"),
        (died(code=EXIT_CLEAN), "without being asked"),
        (died(code=EXIT_FAILED), ""),
        (died(why="the supervisor did it"), ""),
    ],
)
def test_hints(exit_: Exit, word: str) -> None:
    assert word in hint(exit_)
    assert bool(word) == bool(hint(exit_))


def test_silence_is_counted_look_by_look() -> None:
    watch = BeatWatch(silence_max_ms=1500)
    assert not watch.look(beat_ms=5, now_ms=0)
    assert not watch.look(beat_ms=5, now_ms=800)
    assert not watch.look(beat_ms=5, now_ms=1499)
    assert watch.look(beat_ms=5, now_ms=1500)
    assert not watch.look(beat_ms=6, now_ms=1600), "it lives after all"
    assert not watch.look(beat_ms=6, now_ms=10**9), "the supervisor itself was stopped"
    assert watch.silent_ms == BeatWatch.LOOK_MAX_MS
    with pytest.raises(ConfigError):
        BeatWatch(silence_max_ms=0)
