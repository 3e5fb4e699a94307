"""The warm-up, stable, decay schedule and the state that survives an interruption."""

import shutil

import numpy as np
import pytest
import torch

from kbit.training import legs as legs_module
from kbit.training.legs import WARMUP_STEPS, Batches, latest_state, plan_legs, run_leg
from kbit.training.members import MEMBERS, Member

TINY = Member("tiny", layers=1, hidden=32, intermediate=32)


def new_tiny() -> torch.nn.Module:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(TINY.config())


@pytest.fixture
def batches() -> Batches:
    stream = np.random.default_rng(0).integers(0, 1024, 4096).astype(np.uint16)
    return Batches(stream, np.arange(0, 4000, 16), context=16, size=4)


def test_the_sizes_span_a_factor_of_fifty_evenly_in_their_logarithm():
    sizes = np.array([member.parameters_linear for member in MEMBERS.values()])
    ratios = sizes[1:] / sizes[:-1]
    assert sizes[-1] / sizes[0] >= 50
    assert ratios.max() / ratios.min() < 1.2


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_parameters_linear_is_what_the_model_has(member):
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(member.config())
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert member.parameters_linear == sum(m.weight.numel() for m in linear)


def test_three_branches_leave_the_trunk_and_each_decays_over_its_last_quarter():
    legs = plan_legs(2048)
    assert [(leg.start, leg.end) for leg in legs if leg.decays] == [(384, 512), (768, 1024), (1536, 2048)]
    assert [(leg.start, leg.end) for leg in legs if not leg.decays] == [(0, 384), (384, 768), (768, 1536)]
    by_name = {leg.name: leg for leg in legs}
    assert all(by_name[leg.parent].end == leg.start for leg in legs if leg.parent)


def test_the_rate_warms_up_stays_and_falls_to_zero():
    trunk, decay = plan_legs(2048)[:2]
    assert trunk.learning_rate(0, 1.0) == 1 / WARMUP_STEPS
    assert trunk.learning_rate(WARMUP_STEPS, 1.0) == 1.0
    assert decay.learning_rate(decay.start, 1.0) == 1.0
    assert decay.learning_rate(decay.end - 1, 1.0) == pytest.approx(1 / 128)


def test_step_i_takes_the_ith_windows_and_starts_again_at_the_end(batches):
    steps = len(batches.starts) // batches.size
    assert torch.equal(batches.of_step(1)[0], torch.from_numpy(batches.stream[64:81].astype(np.int64)))
    whole_turns = steps * batches.size == len(batches.starts)
    assert torch.equal(batches.of_step(0), batches.of_step(steps)) is whole_turns


def test_a_leg_that_was_interrupted_ends_with_the_same_bytes(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(legs_module, "SAVE_EVERY", 5)
    trunk, decay = plan_legs(64)[:2]

    whole = new_tiny()
    for leg in (trunk, decay):
        run_leg(leg, whole, batches, tmp_path / "whole", peak_rate=1e-2)

    class Killed(BaseException):
        pass

    def kill_at(step_to_die):
        def progress(step, loss):
            if step == step_to_die:
                raise Killed

        return progress

    for leg, step_to_die in ((trunk, 7), (decay, 14)):
        with pytest.raises(Killed):
            run_leg(leg, new_tiny(), batches, tmp_path / "cut", peak_rate=1e-2, progress=kill_at(step_to_die))
        resumed = new_tiny()
        run_leg(leg, resumed, batches, tmp_path / "cut", peak_rate=1e-2)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_a_write_that_was_cut_leaves_the_state_before_it(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(legs_module, "SAVE_EVERY", 4)
    trunk = plan_legs(64)[0]
    run_leg(trunk, new_tiny(), batches, tmp_path, peak_rate=1e-2)
    done = latest_state(tmp_path / trunk.name)
    shutil.copytree(done, done.with_name("writing-step-000099"))  # what a kill in the middle of a save leaves
    (done.with_name("writing-step-000099") / "state.json").unlink()
    assert latest_state(tmp_path / trunk.name) == done
