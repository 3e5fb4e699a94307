"""Tasks hold every run once, in groups that share what is dear."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from kbit.study.specs import RunSpec
from kbit.study.tasks import LOGITS_BYTES, RUNS_AT_ONCE, make_tasks, work_of


def spec(
    model: str = "m", fmt: str = "int4-b64", embeddings: str = "int8-row", protocol: str = "p", tokens: int = 1000
) -> RunSpec:
    about = {
        "format": fmt, "method": "rtn", "tokens": tokens, "parameters": 1e6 if model == "m" else 5e6,
        "architecture": {"vocabulary": 1024},
    }  # fmt: skip
    return RunSpec(
        model, "config", f'{{"weights":"{fmt}","embeddings":"{embeddings}"}}', f'{{"text":"{protocol}"}}', model, (), about
    )


TOO_LONG = LOGITS_BYTES // 4 // 1024 + 1
specs = st.builds(
    spec,
    st.sampled_from("mn"),
    st.sampled_from(["int3-b64", "nf4-b64"]),
    st.sampled_from(["int8-row", "bf16"]),
    st.sampled_from("pq"),
    st.sampled_from([1000, TOO_LONG]),
)


@given(st.lists(specs, max_size=60))
def test_every_run_is_in_one_task_and_a_task_is_of_one_model(asked):
    tasks = make_tasks(asked)
    assert sorted(one.hash for task in tasks for one in task.specs) == sorted(one.hash for one in asked)
    assert all({one.fingerprint for one in task.specs} == {task.specs[0].fingerprint} for task in tasks)


def test_runs_that_differ_in_embeddings_or_protocol_alone_share_the_linear_layers():
    asked = [
        spec(fmt=fmt, embeddings=kept, protocol=text)
        for kept, text, fmt in product(["int8-row", "bf16"], "pq", ["int3-b64", "nf4-b64"])
    ]
    assert [len(task.specs) for task in make_tasks(asked)] == [4, 4]


def test_a_text_whose_logits_do_not_fit_is_shared_by_many_runs():
    asked = [spec(fmt=f"int4-b{block}", tokens=TOO_LONG) for block in range(16, 16 + 2 * RUNS_AT_ONCE + 1)]
    assert [len(task.specs) for task in make_tasks(asked)] == [RUNS_AT_ONCE, RUNS_AT_ONCE, 1]


def test_a_larger_model_and_a_longer_text_are_more_work():
    assert work_of(spec("m")) < work_of(spec("n"))
    assert 2 * work_of(spec(tokens=1000)) == work_of(spec(tokens=2000))
