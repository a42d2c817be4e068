"""Record: everything that a quantisation run has to tell, as plain values that are kept beside the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from omniq.calibrate.trouble import Trouble
from omniq.errors import ModelError

LAYOUT = 2
"""Of report.json; a reader refuses a later one, and takes one of layout 1, which counted less."""


@dataclass(frozen=True)
class LinearRecord:
    """One linear: its scheme, its shape (N, K), and how far it is from the weight it stands for.

    output, weight: relative squared errors of what it computes and of its weight; output None where there were no
    tokens. clipped: share of weights beyond their grid. code_bits: entropy of its codes. All None where not measured.
    """

    name: str
    scheme: str
    shape: tuple[int, int]
    output: float | None = None
    weight: float | None = None
    clipped: float | None = None
    code_bits: float | None = None


@dataclass(frozen=True)
class BlockRecord:
    """One decoder block: seconds it took, its loss before and after, its error, what went wrong, its linears.

    loss_before, loss_after: as the preset trains it, relative to the power of the block's output; None where it does
    not train. error: of the hidden states after the block, relative. peak_memory: the most bytes that the process had
    held when the block was done. unreached: linears that no token reached. trouble: what else was out of the
    ordinary; None where nothing was counted.
    """

    index: int
    seconds: float
    loss_before: float | None
    loss_after: float | None
    error: float | None
    skipped_steps: int
    unreached: tuple[str, ...]
    peak_memory: int | None
    linears: tuple[LinearRecord, ...]
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Record:
    """One run. Sizes and memory are bytes; no path of the machine that made it is in here.

    base: hub id of the original, or the name of its folder (from_hub tells which). card: what the original's own card
    says of licence, language and use. command: what to type to make the same again; recipe: the same as values.
    seconds: of the session that finished the run; resumed_at: the block where it began, 0 for a run in one go.
    device_peak: bytes on an accelerator. notices: every sentence that the run printed; notes: what holds for a run of
    this kind. tuned: KL before and after tuning end to end, on sequences held out. quality: what was measured, with
    its protocol. tuned_skipped: steps of that tuning left out, because their gradient was not finite.
    """

    base: str
    from_hub: bool
    card: dict[str, Any]
    scheme: str
    preset: str
    format: str
    command: str
    recipe: dict[str, Any]
    bits_per_weight: float
    tables: str | None
    allocation: str | None
    size_before: int
    size_after: int
    parameters: int
    loaders: tuple[str, ...]
    data: str | None
    data_fingerprint: str | None
    versions: dict[str, str]
    device: str
    threads: int
    date: str
    seconds: float
    resumed_at: int
    peak_memory: int
    device_peak: int | None
    notices: tuple[str, ...]
    notes: tuple[str, ...]
    tuned: tuple[float, float] | None
    quality: dict[str, Any] | None
    blocks: tuple[BlockRecord, ...] = field(repr=False)
    tuned_skipped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"layout": LAYOUT, **asdict(self)}

    def with_quality(self, quality: Mapping[str, Any]) -> Record:
        """The same run with what was measured of it since."""
        return replace(self, quality=dict(quality))

    @property
    def linears(self) -> tuple[LinearRecord, ...]:
        """The linears of all blocks."""
        return tuple(linear for block in self.blocks for linear in block.linears)

    @property
    def skipped_steps(self) -> int:
        """Training steps left out as not finite, over all blocks and end to end."""
        return sum(block.skipped_steps for block in self.blocks) + self.tuned_skipped


def record_from(values: Mapping[str, Any], place: str) -> Record:
    """The inverse of Record.to_dict; ModelError naming `place` where the values are not those of a record."""
    layout = values.get("layout")
    if layout not in (1, LAYOUT):
        raise ModelError(
            f"{place} has layout {layout!r}, and this omniq reads 1 and {LAYOUT}; use the omniq that wrote it"
        )
    own = {key: value for key, value in values.items() if key != "layout"}
    if layout == 1:
        own["tuned_skipped"] = 0
    try:
        since = {"trouble": None} if layout == 1 else {}
        blocks = tuple(_block({**block, **since}) for block in own["blocks"])
        lists = {key: tuple(own[key]) for key in ("loaders", "notices", "notes")}
        record = _made(Record, {**own, **lists, "tuned": own["tuned"] and tuple(own["tuned"]), "blocks": blocks})
        _check(record)
        return record
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{place} is not the record of a run ({error!r}); copy the checkpoint again") from None


def _block(values: Mapping[str, Any]) -> BlockRecord:
    linears = tuple(_made(LinearRecord, {**one, "shape": tuple(one["shape"])}) for one in values["linears"])
    found = {"unreached": tuple(values["unreached"]), "linears": linears, "trouble": trouble_from(values["trouble"])}
    return _made(BlockRecord, {**values, **found})


def trouble_from(values: Mapping[str, Any] | None) -> Trouble | None:
    """A block's trouble of plain values, None of None."""
    if values is None:
        return None
    lists = {key: tuple(values[key]) for key in ("scarce", "damped", "uncompensated")}
    return _made(Trouble, {**values, **lists})


def _made(kind: type, values: Mapping[str, Any]) -> Any:
    """The dataclass of exactly these values."""
    names = {one.name for one in fields(kind)}
    if set(values) != names:
        raise ValueError(f"{kind.__name__} has {sorted(names ^ set(values))} too many or too few")
    return kind(**values)


NUMBER, COUNT = (int, float), (int,)
KINDS: dict[type, dict[str, tuple[type, ...]]] = {
    Record: {
        **dict.fromkeys(("base", "scheme", "preset", "format", "command", "device", "date"), (str,)),
        **dict.fromkeys(("tables", "allocation", "data", "data_fingerprint"), (str, type(None))),
        **dict.fromkeys(("size_before", "size_after", "parameters", "threads", "resumed_at", "peak_memory"), COUNT),
        "tuned_skipped": COUNT,
        **dict.fromkeys(("bits_per_weight", "seconds"), NUMBER),
        **dict.fromkeys(("card", "recipe", "versions"), (dict,)),
        "quality": (dict, type(None)),
        "device_peak": (int, type(None)),
    },
    BlockRecord: {
        **dict.fromkeys(("index", "skipped_steps"), COUNT),
        "seconds": NUMBER,
        **dict.fromkeys(("loss_before", "loss_after", "error", "peak_memory"), (*NUMBER, type(None))),
    },
    Trouble: {
        **dict.fromkeys(("zero_groups", "constant_groups", "lost_groups", "sinks"), COUNT),
        "kept_start": (bool,),
        "largest": (*NUMBER, type(None)),
    },
    LinearRecord: {
        **dict.fromkeys(("name", "scheme"), (str,)),
        **dict.fromkeys(("output", "weight", "clipped", "code_bits"), (*NUMBER, type(None))),
    },
}
"""Which types the fields have that a page computes with or prints."""


def _check(record: Record) -> None:
    """Raises ValueError where a field is of another type."""
    met = [block.trouble for block in record.blocks if block.trouble]
    for part in (record, *record.blocks, *record.linears, *met):
        for name, kinds in KINDS[type(part)].items():
            if not isinstance(getattr(part, name), kinds):
                raise ValueError(f"{name} is {getattr(part, name)!r}")
    texts = (*record.loaders, *record.notices, *record.notes, *(one for b in record.blocks for one in b.unreached))
    texts += tuple(name for one in met for name in (*one.scarce, *one.damped, *one.uncompensated))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a sentence is no text")
    numbers = (*(record.tuned or ()), *(side for linear in record.linears for side in linear.shape))
    if not all(isinstance(number, NUMBER) for number in numbers) or any(len(x.shape) != 2 for x in record.linears):
        raise ValueError("a shape or a divergence is no number")
