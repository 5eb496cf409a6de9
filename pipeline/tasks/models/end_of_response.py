"""The one token that ends a response: end-of-sequence, or the end of a chat model's turn."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

# A content that no template changes or repeats.
ANSWER = "forty-two"


def end_of_response(tokenizer: Any, declared: Any = None, chat: bool = False) -> int | None:
    """Return the id of the token that ends a response; ``None`` where nothing tells.

    Chat templates close the assistant's turn with a token of their own (``<end_of_turn>``, ``<|eot_id|>``) that need
    not be the tokenizer's end-of-sequence: in a chat the first special token after an answer is it.

    Args:
        tokenizer: Of the model.
        declared: ``eos_token_id`` of the model's generation config: an id, a list of ids, or ``None``.
        chat: Whether prompts go through the chat template.
    """
    listed = declared if isinstance(declared, list | tuple) else [declared]
    known = [int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None]
    if chat and tokenizer.chat_template:
        special = {*known, *tokenizer.all_special_ids}
        special |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        closing = next((token for token in _after_answer(tokenizer) if token in special), None)
        if closing is not None:
            return closing
    return known[0] if known else None


def _after_answer(tokenizer: Any) -> list[int]:
    """Return the tokens that the chat template puts after an assistant's answer."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, ValueError, TypeError, KeyError):
        return []
    _, found, after = text.rpartition(ANSWER)
    return list(tokenizer(after, add_special_tokens=False)["input_ids"]) if found else []
