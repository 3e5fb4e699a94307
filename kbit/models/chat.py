"""Conversations as a model's own chat template writes them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from kbit.errors import ModelError
from kbit.models.skeleton import one_line

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": its text}
ANSWER = "kbit"  # stands for an answer, to see what the template writes after one


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation up to where the model answers. Raises ModelError where there is no template, or it refuses."""
    text = _written(tokenizer, messages, answer_next=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def chat_ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The special token that the template writes after an answer, where it writes one: not in all models is that EOS."""
    turns = [{"role": "user", "content": ANSWER}, {"role": "assistant", "content": ANSWER}]
    after = _written(tokenizer, turns, answer_next=False).rpartition(ANSWER)[2]
    tokens = tokenizer(after, add_special_tokens=False)["input_ids"][:1]
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return frozenset(tokens) & special


def _written(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_next: bool) -> str:
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path or 'the model'}: its tokenizer has no chat template. Leave the chat out, or take a model "
            f"that is made for instructions."
        )
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer_next)
    except Exception as error:  # a template is a program, and fails as it likes
        raise ModelError(
            f"{tokenizer.name_or_path or 'the model'}: its chat template refuses these messages: {one_line(error)}."
        ) from error
    assert isinstance(text, str)
    return text
