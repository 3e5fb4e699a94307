"""Candidates that take turns."""

from __future__ import annotations

import torch

from kbit.kernels.bench import cache_bytes, cpu_name, read_speed, take_turns

DATA = torch.ones(1 << 25, dtype=torch.uint8)


def test_every_candidate_has_one_turn_a_round_and_the_first_round_does_not_count():
    calls = {name: [] for name in "abc"}
    twice = {name: [lambda name=name: calls[name].append(None)] * 2 for name in calls}
    turns = take_turns(twice, DATA, seconds=0, least=4)
    assert {len(made) for made in calls.values()} == {2 * 5}
    assert {len(seconds) for seconds in turns.seconds.values()} == {2 * 4}
    assert len(turns.read) == 4


def test_rounds_go_on_for_the_seconds_given_but_no_more_than_most():
    order = []
    take_turns({name: [lambda name=name: order.append(name)] for name in "ab"}, DATA, seconds=60, least=1, most=20)
    rounds = ["".join(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert len(rounds) == 21
    assert set(rounds) == {"ab", "ba"}


def test_memory_is_read_at_some_speed_and_the_machine_has_a_name():
    assert read_speed(1, DATA) > 0
    assert cache_bytes() >= 1 << 15
    assert " cores, " in cpu_name()
