"""Which tensors of a model a rotation changes, and how: read from the architecture's table, before any weight is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from omniq.calibrate.heads import Heads, heads_of, rows
from omniq.calibrate.pieces.let import matching
from omniq.hadamard import transformed
from omniq.hf import OpenModel
from omniq.models.adapter import NormFold, Stream, UpFold, ValueFold
from omniq.rotation.steps import (
    Step,
    Turn,
    filled,
    random_turn,
    scaled_columns,
    turned_columns,
    turned_head_columns,
    turned_head_outputs,
    turned_outputs,
)
from omniq.spec import ROTATIONS

NONE, FOLD, ONLINE, INPUTS = ROTATIONS


@dataclass
class Plan:
    """steps: by parameter name of the skeleton, in order. online: linears whose input is transformed at run time.

    untied: whether the output head must part from the embedding.
    """

    steps: dict[str, list[Step]] = field(default_factory=dict)
    online: tuple[str, ...] = ()
    untied: bool = False

    def add(self, name: str, step: Step) -> None:
        """Appends a step of one parameter."""
        self.steps.setdefault(name, []).append(step)


def seed_of(seed: int, place: str) -> int:
    """The seed of one random rotation."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{place}".encode(), digest_size=4).digest(), "little")


def plan_of(model: OpenModel, mode: str, seed: int) -> Plan:
    """The plan of a mode that refusal() lets pass."""
    plan = Plan()
    params = dict(model.skeleton.named_parameters(remove_duplicate=False))
    if mode in (FOLD, ONLINE):
        _rotate_stream(plan, model, params, seed)
    if model.adapter is not None:
        _rotate_values(plan, model, params, seed)
    if mode == INPUTS:
        plan.online = model.linears
    if mode == ONLINE:
        patterns = [fold.down for fold in model.adapter.folds if isinstance(fold, UpFold)]
        found = {name for pattern in patterns for _, name in _matching(model, params, pattern)}
        plan.online = tuple(name for name in model.linears if name in found)
    for name in plan.online:
        plan.add(f"{name}.weight", transformed)
    return plan


def _matching(model: OpenModel, params: dict[str, nn.Parameter], pattern: str) -> Iterable[tuple[int, str]]:
    """(block, full name) of modules with a weight that match a pattern of names inside a block."""
    for index in range(len(model.skeleton.get_submodule(model.blocks))):
        prefix = f"{model.blocks}.{index}."
        own = {name.removeprefix(prefix): param for name, param in params.items() if name.startswith(prefix)}
        yield from ((index, prefix + name) for name in matching(pattern, own))


def _rotate_stream(plan: Plan, model: OpenModel, params: dict[str, nn.Parameter], seed: int) -> None:
    """R1: one rotation of the residual stream, the norms' weights folded into what reads them first."""
    stream: Stream = model.adapter.stream
    head, embedding = tables_of(model.skeleton)
    turn = random_turn(model.skeleton.config.hidden_size, seed_of(seed, "stream"))
    plan.untied = model.tied
    plan.add(embedding, turned_columns(turn))
    for fold in (fold for fold in model.adapter.folds if isinstance(fold, NormFold)):
        for index, norm in _matching(model, params, fold.norm):
            prefix = f"{model.blocks}.{index}."
            readers = [
                name
                for pattern in fold.linears
                for _, name in _matching(model, params, pattern)
                if name.startswith(prefix)
            ]
            _fold_norm(plan, model, norm, [f"{name}.weight" for name in readers], turn)
    _fold_norm(plan, model, stream.final_norm, [head], turn)
    for pattern in stream.writers:
        for _, name in _matching(model, params, pattern):
            for leaf in ("weight", "bias"):
                if f"{name}.{leaf}" in params:
                    plan.add(f"{name}.{leaf}", turned_outputs(turn))


def tables_of(skeleton: nn.Module) -> tuple[str, str]:
    """Parameter names of the output head and of the embedding, each its own also while they are one parameter."""
    names = {module: name for name, module in skeleton.named_modules()}
    return tuple(
        f"{names[table]}.weight" for table in (skeleton.get_output_embeddings(), skeleton.get_input_embeddings())
    )


def _fold_norm(plan: Plan, model: OpenModel, norm: str, readers: list[str], turn: Turn) -> None:
    """One norm's weight moves into all that read it."""
    weight, offset = f"{norm}.weight", model.adapter.norm_offset
    read: Callable[[], Tensor] = lambda: model.read(weight).double() + offset  # noqa: E731
    for name in readers:
        plan.add(name, scaled_columns(read))
        plan.add(name, turned_columns(turn))
    plan.add(weight, filled(1 - offset))


def _rotate_values(plan: Plan, model: OpenModel, params: dict[str, nn.Parameter], seed: int) -> None:
    """R2: in every block one rotation of all value heads, undone in the output projection's columns."""
    heads: Heads = heads_of(model.skeleton.config, model.adapter.rotary)
    for fold in (fold for fold in model.adapter.folds if isinstance(fold, ValueFold)):
        for index, name in _matching(model, params, fold.v.name):
            turn = random_turn(heads.dim, seed_of(seed, f"values/{index}"))
            chosen = rows(fold.v, heads, params[f"{name}.weight"].shape[0])
            for leaf in ("weight", "bias"):
                if f"{name}.{leaf}" in params:
                    plan.add(f"{name}.{leaf}", turned_head_outputs(turn, chosen))
            plan.add(f"{model.blocks}.{index}.{fold.o}.weight", turned_head_columns(turn))
