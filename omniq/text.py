"""Documents from a text file, a table or a hub data set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from omniq.errors import DataError

Document = str | list[dict[str, Any]]
"""A text, or the messages of one conversation."""

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
ROWS = 256
"""Rows of a parquet file in memory together: a small file can hold one long text a great many times."""


def documents(source: str, column: str = "text", split: str = "train") -> Iterator[Document]:
    """The documents of `source`: a .txt file is one, .jsonl and .parquet have one a row; else hub, 'id[:config]'.

    A source that cannot be one is an error at once; reading begins with the first document taken.
    """
    path = Path(source).expanduser()
    reader = READERS.get(path.suffix)
    if path.is_dir():
        raise DataError(f"{source} is a folder; give one .txt, .jsonl or .parquet file")
    if path.is_file():
        if reader is None:
            raise DataError(
                f"{source} ends in {path.suffix or 'no suffix'!r}; text is read from .txt, .jsonl and .parquet files"
            )
        return reader(path, column)
    if reader is not None or not HUB_ID.fullmatch(source):
        raise DataError(f"there is no file {source}; give a .txt, .jsonl or .parquet file, or the id of a hub data set")
    return _hub(source, column, split)


class Tokenizer(Protocol):
    """What omniq needs of a tokenizer to make windows of tokens."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """An object with input_ids, a list of ints."""


def leading(tokenizer: Tokenizer) -> list[int]:
    """The special tokens (BOS) that this tokenizer itself puts before a text; every window begins with them.

    Gemma, which is never without its BOS in training, has more than twice the perplexity when it is left out.
    """
    plain = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a", add_special_tokens=True).input_ids
    starts = (i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain)
    return list(full[: next(starts, 0)])


def in_template(tokenizer: Any, messages: list[dict[str, Any]], **options: bool) -> str:
    """A conversation as one text, by the chat template that the tokenizer's folder brings along; options: its own."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except (ValueError, TypeError, ArithmeticError, TemplateError) as error:
        raise DataError(
            f"there are messages, and the tokenizer's chat template cannot format them ({first_line(error)}); give "
            "plain text"
        ) from None


def is_local(source: str) -> bool:
    """True when `source` names a file on this machine."""
    return Path(source).expanduser().is_file()


def _text(path: Path, column: str) -> Iterator[Document]:
    try:
        yield path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: UnicodeDecodeError | OSError) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}")
    return DataError(f"cannot read {path}: {error.strerror}")


def _jsonl(path: Path, column: str) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _document(_json(line, path, number), column, f"{path}, line {number}")
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, error) from None


def _json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        reason = error.msg
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists without end
        reason = str(error)
    raise DataError(f"{path}, line {number} is not JSON ({reason}); each line must be one object")


def _parquet(path: Path, column: str) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError(
            f"reading {path} needs the package pyarrow; install it, or give a .txt or .jsonl file"
        ) from None
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                yield _document(row, column, str(path))
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a readable parquet file: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _hub(source: str, column: str, split: str) -> Iterator[Document]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"there is no file {source}, and reading it as a hub data set needs the package datasets; "
            "install it, give a local file, or use 'self'"
        ) from None
    name, _, config = source.partition(":")
    # Streaming reads only the documents used; offline, the library reads its local cache, which cannot be streamed.
    streaming = not datasets.config.HF_HUB_OFFLINE
    try:
        rows = datasets.load_dataset(name, config or None, split=split, streaming=streaming)
        for row in rows:
            yield _document(row, column, f"hub data set {source}")
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise DataError(
            f"cannot read {source!r} as a hub data set, split {split!r} ({type(error).__name__}: {reason}); "
            "without a network give a local .txt, .jsonl or .parquet file, or use 'self'"
        ) from None


def _document(row: Any, column: str, place: str) -> Document:
    """One row of a table -> its text or its messages."""
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected an object with the column {column!r}, got {type(row).__name__}")
    value = row.get(column, row.get("messages"))
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value):
        return value
    held = f"holds {type(value).__name__}, neither a text nor a list of messages" if column in row else "does not exist"
    raise DataError(f"{place}: the column {column!r} {held}; the columns are {', '.join(map(str, row))}")


READERS = {".txt": _text, ".raw": _text, ".md": _text, ".jsonl": _jsonl, ".json": _jsonl, ".parquet": _parquet}


def prefix(texts: Iterable[str], limit: int) -> tuple[str, bool]:
    """The texts joined by blank lines up to the document that reaches `limit` characters, and whether any were left."""
    taken, size, texts = [], 0, iter(texts)
    for text in texts:
        taken.append(text)
        size += len(text)
        if size >= limit:
            return "\n\n".join(taken), next(texts, None) is not None
    return "\n\n".join(taken), False
