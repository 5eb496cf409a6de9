"""What a chat template makes of each message: one that it drops is found, and a role that it does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, proxy

from shaping.errors import ConfigError

# Roles that models are trained with, whether their template names them or prints whatever stands there.
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
# Parts of a message that a template may leave out without a word, although the model was to see them.
CALLS = ("tool_calls", "function_call")
Render = Callable[[Sequence[Mapping[str, Any]]], str]

_CHECKS: WeakKeyDictionary[Any, TemplateCheck] = WeakKeyDictionary()


def check_of(tokenizer: Any) -> TemplateCheck:
    """Return the check of a tokenizer's chat template, which remembers what it has seen."""
    template = tokenizer.get_chat_template()
    known = _CHECKS.get(tokenizer)
    if known is None or known.template != template:
        # A check that held its tokenizer would keep it for ever.
        seen = proxy(tokenizer)

        def render(messages: Sequence[Mapping[str, Any]]) -> str:
            return str(seen.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))

        known = _CHECKS[tokenizer] = TemplateCheck(template, render)
    return known


class TemplateCheck:
    """Refuses messages that a template would drop. Each order of roles is looked at once.

    Args:
        template: Its source.
        render: Returns the template's text of messages.
    """

    def __init__(self, template: str, render: Render) -> None:
        self.template, self._render = template, render
        self._seen: set[tuple[tuple[str, ...], ...]] = set()

    def check(self, messages: Sequence[Mapping[str, Any]], place: str) -> None:
        """Refuse messages that the model would not see as they are meant.

        Args:
            messages: The turns of a chat, each with role and content.
            place: Where they stand, for errors.

        Raises:
            ConfigError: A role is unknown to the template, or a message or its calls are dropped.
        """
        form = tuple((str(each["role"]), *(name for name in CALLS if each.get(name))) for each in messages)
        if form in self._seen:
            return
        self._check_roles(messages, place)
        # Words that no template changes, in place of contents, which it may trim or cut.
        marks = [f"content{number}of{len(messages)}" for number in range(len(messages))]
        marked = [{**each, "content": mark} for each, mark in zip(messages, marks, strict=True)]
        text = self._rendered(marked)
        if text is not None:
            self._check_kept(messages, marks, text.lower(), place)
            self._check_calls(marked, text, place)
            self._check_own_words(marked, text, place)
        self._seen.add(form)

    def _rendered(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the template's text; ``None`` where it wants other contents, so that nothing can be seen."""
        try:
            return self._render(messages)
        except Exception:
            return None

    def _check_kept(self, messages: Sequence[Mapping[str, Any]], marks: Sequence[str], text: str, place: str) -> None:
        for number, (message, mark) in enumerate(zip(messages, marks, strict=True), start=1):
            if mark not in text and (message["content"] or not any(message.get(name) for name in CALLS)):
                raise ConfigError(
                    f"{place}: the chat template drops message {number}, of role {message['role']!r}",
                    "leave it out, say it in a message of another role, or give the tokenizer a template that keeps it",
                )

    def _check_roles(self, messages: Sequence[Mapping[str, Any]], place: str) -> None:
        for number, message in enumerate(messages, start=1):
            role = message["role"]
            if role not in ROLES and not re.search(rf"['\"]{re.escape(role)}['\"]", self.template):
                raise ConfigError(
                    f"{place}: message {number} has the role {role!r}, which the chat template does not know",
                    "write system, user, assistant or tool, in lower case, or a role that the template names",
                )

    def _check_calls(self, marked: Sequence[Mapping[str, Any]], text: str, place: str) -> None:
        for number, message in enumerate(marked):
            for name in CALLS:
                if not message.get(name):
                    continue
                without = {key: value for key, value in message.items() if key != name}
                if self._rendered([*marked[:number], without, *marked[number + 1 :]]) == text:
                    raise ConfigError(
                        f"{place}: the chat template drops {name} of message {number + 1}",
                        "write the call into its content, or give the tokenizer a template that keeps it",
                    )

    def _check_own_words(self, marked: Sequence[Mapping[str, Any]], text: str, place: str) -> None:
        """Refuse a message of another role that the template writes as if the assistant had said it."""
        for number, message in enumerate(marked):
            if message["role"] in ("user", "assistant"):
                continue
            said = {
                role: self._rendered([*marked[:number], {**message, "role": role}, *marked[number + 1 :]])
                for role in ("user", "assistant")
            }
            if said["assistant"] == text != said["user"]:
                raise ConfigError(
                    f"{place}: the chat template takes message {number + 1}, of role {message['role']!r}, for the "
                    "assistant's own",
                    "say it in a message of another role, or give the tokenizer a template that knows the role",
                )
