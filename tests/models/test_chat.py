"""Messages in a model's chat template."""

from __future__ import annotations

import pytest

from kbit.errors import ModelError
from kbit.models.chat import chat_ends, chat_tokens
from tests.tiny_models import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and m.content == 'no' %}{{ raise_exception('No such system.') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def tokenizer():
    made = tiny_tokenizer()
    made.chat_template = TEMPLATE
    return made


def test_a_conversation_ends_where_the_model_answers(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = chat_tokens(tokenizer, messages)
    assert tokenizer.decode(ids) == "[system]Be brief.</s>[user]Hi</s>[assistant]"
    assert ids.count(257) == 2  # one token each, and none added by the tokenizer


def test_the_special_token_after_an_answer_ends_it(tokenizer):
    assert chat_ends(tokenizer) == {257}
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert chat_ends(tokenizer) == set()


def test_no_template_is_an_error_that_says_what_to_do():
    with pytest.raises(
        ModelError, match=r"its tokenizer has no chat template\. Leave the chat out, or take a model that is made"
    ):
        chat_tokens(tiny_tokenizer(), [{"role": "user", "content": "Hi"}])


def test_what_a_template_refuses_is_an_error_of_one_line(tokenizer):
    with pytest.raises(ModelError, match=r"its chat template refuses these messages: No such system\.$"):
        chat_tokens(tokenizer, [{"role": "system", "content": "no"}])
