"""The folder of an audit: what has been measured so far, so that the same command goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omniq.audit.base import Found
from omniq.audit.store import found_from_dict, found_to_dict
from omniq.differences import differences
from omniq.errors import OutputError
from omniq.folder_lock import taken
from omniq.shards import write_text

RUN, PREPARED, LOCK, MEASURED, MADE = "run.json", "prepared.json", ".lock", "measured", "models"


class AuditFolder:
    """OUT: run.json (what the audit is), prepared.json (the items it asks), measured/MODEL/EVALUATOR.json, the results.

    models/ holds what had to be made, and beside each model what it was made of. reuse: the folder of another audit of
    the same data and settings, whose models and measurements hold here too where they are of the same. One process at
    a time. Every file appears whole or not at all.
    """

    def __init__(self, path: Path, reuse: Path | None = None) -> None:
        self.path, self.reuse = path, reuse
        if reuse is not None and not (reuse / RUN).is_file():
            raise OutputError(f"{reuse} holds no audit to take measurements from; give the --out folder of one")

    def __enter__(self) -> AuditFolder:
        try:
            lock = taken(self.path / LOCK)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error.strerror}; choose another --out folder") from None
        if lock is None:
            raise OutputError(f"another audit is writing {self.path}; wait for it or choose another folder")
        self._lock = lock
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def begin(self, identity: Mapping[str, Any], overwrite: bool) -> None:
        """Goes on with an audit of the same identity; another one is refused, or its measurements dropped."""
        run = self.path / RUN
        if run.is_file():
            known = _parsed(run)
            changed = differences(known, identity) if known is not None else [f"{run} is damaged"]
            if not changed:
                return
            if not overwrite:
                raise OutputError(
                    f"{self.path} holds another audit: {'; '.join(changed[:5])}. Choose another --out folder, "
                    "or give --overwrite to measure anew"
                )
            for file in [self.path / PREPARED, *(self.path / MEASURED).glob("*/*.json")]:
                file.unlink(missing_ok=True)
        elif any(entry.name not in (LOCK, MADE) for entry in self.path.iterdir()):
            raise OutputError(f"{self.path} is not empty and holds no audit; choose another --out folder")
        write_text(run, json.dumps(identity, indent=2, sort_keys=True))

    def prepared(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, plain values made once in an audit."""
        values = _parsed(self.path / PREPARED)
        if values is None:
            values = make()
            write_text(self.path / PREPARED, json.dumps(values))
        return values

    def made(self, name: str) -> Path:
        """The folder of a model that has to be made."""
        return self.path / MADE / file_name(name)

    def finished(self, model: Path, origin: Mapping[str, Any]) -> Path | None:
        """Where this audit or the other one has made the model of the same origin; None where neither has."""
        for folder in filter(None, (self.path, self.reuse)):
            found = folder / MADE / model.name
            if (found / "config.json").is_file() and _parsed(_origin(found)) == _plain(origin):
                return found
        return None

    def finish(self, model: Path, origin: Mapping[str, Any]) -> None:
        """Notes of what a model was made. origin: the model it comes from, and the recipe."""
        write_text(_origin(model), json.dumps(origin, indent=2, sort_keys=True))

    def load(self, model: str, evaluator: str, key: str) -> Found | None:
        """What an evaluator found about a model under the same key, or None where it has yet to be measured."""
        for folder in (self.path, self.reuse):
            values = _parsed(_file(folder, model, evaluator)) if folder else None
            if values is not None and values.get("key") == key:
                return found_from_dict(values.get("found"))
        return None

    def save(self, model: str, evaluator: str, key: str, found: Found) -> None:
        """Keeps what an evaluator found about a model. key: tells that model, data and settings are the same."""
        file = _file(self.path, model, evaluator)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"key": key, "found": found_to_dict(found)}))


def file_name(name: str) -> str:
    """The name of a model as the name of a folder; different names give different ones."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return plain if plain == name else f"{plain}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def _origin(model: Path) -> Path:
    """The file beside a model that says what it was made of."""
    return model.parent / f"{model.name}.json"


def _plain(values: Mapping[str, Any]) -> Any:
    """The values as a JSON file gives them back."""
    return json.loads(json.dumps(values))


def _file(folder: Path, model: str, evaluator: str) -> Path:
    return folder / MEASURED / file_name(model) / f"{evaluator}.json"


def _parsed(path: Path) -> dict[str, Any] | None:
    """The values of a JSON file, None where there is none or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
