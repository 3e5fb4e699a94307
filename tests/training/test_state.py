"""A state comes back as it was, with what the optimizer knows; what lay beside it goes."""

import torch

from kbit.training.state import read_state, write_state


def begun(seed, steps=0):
    """Tensors by name, one of which does not train, and their optimizer after some steps."""
    torch.manual_seed(seed)
    named = {"w": torch.randn(3, 4, requires_grad=True), "unused": torch.randn(2, requires_grad=True), "counts": torch.arange(5)}
    optimizer = torch.optim.AdamW([named["w"], named["unused"]], lr=0.1)
    for _ in range(steps):
        move(named, optimizer)
    return named, optimizer


def move(named, optimizer):
    optimizer.zero_grad()
    (named["w"].sin() * torch.arange(4)).sum().backward()
    optimizer.step()


def test_a_training_goes_on_from_its_state_as_if_it_had_not_stopped(tmp_path):
    named, optimizer = begun(0, steps=3)
    named["counts"] += 7
    write_state(tmp_path / "step-3", {"step": 3, "losses": [1.5]}, named, optimizer)
    other, again = begun(1)
    assert read_state(tmp_path / "step-3", other, again) == {"step": 3, "losses": [1.5]}
    assert len(again.state) == 1  # nothing moved the unused one
    for _ in range(2):
        move(named, optimizer)
        move(other, again)
    for name in named:
        assert torch.equal(other[name], named[name]), name


def test_only_the_last_state_stays_and_what_is_no_state_stays_too(tmp_path):
    named, optimizer = begun(0, steps=1)
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "writing-step-1").mkdir()  # what a kill in the middle leaves
    for step in (1, 2, 2):
        write_state(tmp_path / f"step-{step}", {"step": step}, named, optimizer)
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "step-2"}
