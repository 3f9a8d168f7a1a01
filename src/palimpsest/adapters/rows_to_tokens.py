"""Rows of text as token ids and labels.

Rows are written as in TRL: ``text``; ``prompt`` and ``completion`` (text, or lists of messages); ``messages``.
What stands in them is text: a null or a number is refused, not spelled out.
With a prompt, only the completion is scored; of messages, the last one.  Prompt and completion are tokenized
apart and joined, so that a question asked later is tokenized exactly as it was in training.  An audit may also ask
for the continuation of ``text_prefix``, the beginning of a text, which is never wrapped as a chat.  A completion ends
with the end token, a ``text`` only with ``end_of_text``: it may be a passage of something longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.audit import Row

__all__ = ["CHATML", "Tokens", "check_prompt", "check_row", "complete", "prompt_ids"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML without a default system prompt, which in some models' own templates is longer than the conversation."""


@dataclass(frozen=True)
class Tokens:
    """How text becomes tokens: the tokenizer, whether plain prompts are wrapped as a chat, the template, and whether
    the end token is written behind a ``text``."""

    tokenizer: Any
    chat: bool = False
    chat_template: str | None = None
    end_of_text: bool = False

    @property
    def template(self) -> str | None:
        """The template that replaces the tokenizer's own, or None."""
        return CHATML if self.chat_template == "chatml" else self.chat_template

    def render(self, messages: Sequence[Mapping[str, str]], place: str, *, generation: bool) -> str:
        """Messages as one text; ``generation`` ends it where the assistant's answer begins."""
        template = self.template
        if template is None and self.tokenizer.chat_template is None:
            raise ValueError(
                f"{place}: this tokenizer has no chat template; set model.chat_template (for example chatml)."
            )
        text: str = self.tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=generation
        )
        return text

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return found


def _refuse_no_text(value: Any, column: str, place: str, wanted: str = "text") -> None:
    """``str`` would make words of anything, ``None`` of a null."""
    if isinstance(value, str):
        return
    if value is None or (isinstance(value, float) and math.isnan(value)):  # as tables write what is missing
        raise ValueError(f"{place}: {column} is empty (null); give it words or leave the row out.")
    shown = repr(str(value)[:60])
    if isinstance(value, int | float):
        raise ValueError(f"{place}: {column} must be text, not {shown} as a number; put it in quotes.")
    raise ValueError(f"{place}: {column} must be {wanted}, not {shown}; write it so, or name another column.")


def _messages(value: Any, role: str, column: str, place: str) -> list[Mapping[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    wanted = "text or a list of messages with role and content"
    if not (
        isinstance(value, list)
        and value
        and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)
    ):
        _refuse_no_text(value, column, place, wanted)
    for number, message in enumerate(value, 1):
        _refuse_no_text(message["content"], f"the content of message {number} of {column}", place)
    return list(value)


def _conversation(row: Row, chat: bool, place: str) -> tuple[list[Mapping[str, str]], list[Mapping[str, str]]] | None:
    """(prompt, completion) as messages, or None where the row is not a conversation."""
    if "messages" in row:
        found = _messages(row["messages"], "user", "messages", place)
        if len(found) < 2 or found[-1]["role"] != "assistant":
            raise ValueError(f"{place}: messages must end with the assistant's answer to be scored.")
        return found[:-1], found[-1:]
    prompt, completion = row.get("prompt"), row.get("completion", "")
    if prompt is not None and (chat or not isinstance(prompt, str)):
        return _messages(prompt, "user", "prompt", place), _messages(completion, "assistant", "completion", place)
    return None


def _known(row: Row, place: str) -> None:
    if not any(column in row for column in ("text", "prompt", "messages")):
        raise ValueError(
            f"{place} has the columns {sorted(map(str, row))}; a language model needs text, or prompt and completion,"
            " or messages (a role in a recipe renames columns: {file: …, columns: {prompt: question}})."
        )


def check_prompt(row: Row, place: str, *, chat: bool = False) -> None:
    """Raises ``ValueError`` for a row from which no answer can be generated; needs no tokenizer."""
    if "text_prefix" in row:
        return
    _known(row, place)
    if _conversation(row, chat, place) is not None:
        return
    if "prompt" not in row:
        raise ValueError(
            f"{place}: generation starts from a prompt, but the row has only text; add prompt and completion."
        )
    _refuse_no_text(row["prompt"], "prompt", place)


def check_row(row: Row, place: str, *, chat: bool = False) -> None:
    """Raises ``ValueError`` for a row of which nothing can be scored; needs no tokenizer."""
    _known(row, place)
    if "text" in row and "prompt" not in row and "messages" not in row:
        _refuse_no_text(row["text"], "text", place)
        if not row["text"].strip():
            raise ValueError(f"{place}: text is empty; give it words or leave the row out.")
        return
    if "messages" not in row and "completion" not in row:
        raise ValueError(f"{place} has a prompt but no completion; add the column completion.")
    conversation = _conversation(row, chat, place)
    if conversation is None:
        _refuse_no_text(row["prompt"], "prompt", place)
        _refuse_no_text(row["completion"], "completion", place)
    answer: str = row["completion"] if conversation is None else conversation[1][-1]["content"]
    if not answer.strip():
        raise ValueError(f"{place}: the completion is empty, so nothing would be scored; fill it or leave the row out.")


def prompt_ids(row: Row, tokens: Tokens, place: str) -> list[int]:
    """The tokens that a generation for this row starts from."""
    check_prompt(row, place, chat=tokens.chat)
    if "text_prefix" in row:
        return tokens.ids(str(row["text_prefix"]), special=True)
    conversation = _conversation(row, tokens.chat, place)
    if conversation is not None:
        return tokens.ids(tokens.render(conversation[0], place, generation=True))
    return tokens.ids(row["prompt"], special=True)


def complete(row: Row, tokens: Tokens, place: str) -> tuple[list[int], int]:
    """All tokens of a row, and how many of them at the start are not scored."""
    check_row(row, place, chat=tokens.chat)
    eos = tokens.tokenizer.eos_token_id
    if "text" in row and "prompt" not in row and "messages" not in row:
        ids = tokens.ids(row["text"], special=True)
        ends = tokens.end_of_text and eos is not None and ids[-1:] != [eos]  # some tokenizers write it themselves
        return [*ids, eos] if ends else ids, 1
    start = prompt_ids(row, tokens, place)
    conversation = _conversation(row, tokens.chat, place)
    if conversation is None:
        answer = tokens.ids(row["completion"]) + ([eos] if eos is not None else [])
    else:
        prefix = tokens.render(conversation[0], place, generation=True)
        whole = tokens.render([*conversation[0], *conversation[1]], place, generation=False)
        if not whole.startswith(prefix):
            raise ValueError(
                f"{place}: this chat template rewrites the prompt once an answer follows; set model.chat_template."
            )
        answer = tokens.ids(whole[len(prefix) :])
        if eos in answer:  # what a template prints after the end of the turn is not the model's to say
            answer = answer[: len(answer) - answer[::-1].index(eos)]
    return start + answer, len(start)
