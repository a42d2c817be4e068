"""Template: how a question is put to a model, and what stands before and after an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omniq.errors import UsageError
from omniq.text import in_template

TEMPLATES = ("plain", "chat")


@dataclass(frozen=True)
class Template:
    """prompt: question -> what the model reads. lead: what comes between it and the answer. end: what ends an answer.

    Prompt and lead + answer are tokenised separately and joined, so that no token straddles the two.
    """

    name: str
    prompt: Callable[[str], str]
    lead: str
    end: str

    def answer(self, text: str) -> str:
        """What the model should write for the answer `text`, without the end."""
        return self.lead + text


def template(name: str, tokenizer: Any) -> Template:
    """'plain', 'chat', or 'auto': chat where the tokenizer has a chat template."""
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    if name == "auto":
        name = "chat" if has_chat else "plain"
    if name not in TEMPLATES:
        raise UsageError(f"template is {name!r}; use auto, {', '.join(TEMPLATES)}")
    if name == "plain":
        return Template("plain", plain_prompt, " ", tokenizer.eos_token or "\n")
    if not has_chat:
        raise UsageError("the tokenizer has no chat template; use --template plain")
    return Template("chat", lambda question: chat_prompt(tokenizer, question), "", chat_end(tokenizer))


def plain_prompt(question: str) -> str:
    """'Question: ...' and 'Answer:' on a line of its own; the answer follows after a space."""
    return f"Question: {question}\nAnswer:"


def chat_prompt(tokenizer: Any, question: str) -> str:
    """The question as a user's message, up to where the assistant begins to write."""
    messages = [{"role": "user", "content": question}]
    return in_template(tokenizer, messages, add_generation_prompt=True)


def chat_end(tokenizer: Any) -> str:
    """What the chat template itself puts after an assistant's message, cut before the next line."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = in_template(tokenizer, messages)
    return whole.rpartition("b")[2].strip() or tokenizer.eos_token or "\n"
