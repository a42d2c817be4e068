"""Embedding table and output head in compressed-tensors: a config group of their own, in one of two layouts.

`int-quantized`, at 8 bits: weight (V, D) int8 = code - 128 and weight_scale (V, G). transformers reads it, beside
linears of any symmetric grid, since the module keeps a parameter called weight; a head that is the embedding shares
that parameter and only looks for a weight_scale of its own. `pack-quantized`, at 4 bits, as linears have it:
transformers cannot hold an embedding without a weight, but it can expand a whole checkpoint while it loads
("dequantize"), with one grid for everything in it; so it reads a table on the very grid of the linears, and else only
omniq does. All of this was tried with compressed-tensors 0.20 and transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from omniq.errors import UnsupportedError
from omniq.formats.base import Format, StoredTable
from omniq.formats.ct_config import (
    CLASS,
    LAYOUT,
    METHOD,
    PLAIN_LAYOUT,
    decisive_target,
    scheme_entry,
    schemes_by_target,
    strings,
)  # fmt: skip
from omniq.formats.ct_plain import pack_plain, plain_leaves, unpack_plain
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec, TableSpec

EMBEDDING_CLASS = "Embedding"
PLAIN_BITS = 8
OTHERS = (
    "vLLM: no, a quantised embedding table is not served by its releases (from its pull requests 44340 and 45535; not "
    "run); --embed-bits 16 loads.",
    "SGLang: no, it takes a quantised output head for a dense one and writes nonsense (from its issue 35358; not run); "
    "--embed-bits 16 loads.",
    "omniq: yes.",
)


class CompressedTables:
    """Tables of the compressed-tensors format."""

    def __init__(self, linears: Format) -> None:
        """linears: the format of the linears, whose packing the packed layout shares."""
        self.linears = linears

    def loaded_by(self, scheme: LinearSpec, table: TableSpec, expand: bool) -> tuple[str, ...]:
        """The runtimes that load such tables beside linears of `scheme`, one sentence each."""
        first = self.linears.loaded_by(scheme)[0]
        if scheme != scheme.plain():
            return (first, OTHERS[-1])  # the first speaks for all the others
        if scheme.weight.symmetric and not expand if plain(table) else one_grid((scheme,), table):
            return (first, *OTHERS)
        grids = "an embedding of 8 bits beside symmetric linears, or one of 4 bits on the very grid of the linears"
        if expand:
            grids = "in this architecture, whose linears it must expand, only one of 4 bits on the very grid of theirs"
        return (f"transformers: no, loading ends with an error (it reads {grids}); --embed-bits 16 loads.", *OTHERS)

    def config(
        self, config: Mapping[str, Any], linears: Mapping[str, LinearSpec], table: TableSpec, names: tuple[str, ...]
    ) -> dict[str, Any]:
        """The `quantization_config` of the linears with the tables added, under all of `names`."""
        layout = PLAIN_LAYOUT if plain(table) else LAYOUT
        groups = config["config_groups"]
        own = {"targets": list(dict.fromkeys(names)), **scheme_entry(table.linear), "format": layout}
        ignored = [name for name in config["ignore"] if name not in names]
        found = {**config, "ignore": ignored, "config_groups": {**groups, f"group_{len(groups)}": own}}
        return {**found, "dequantize": True} if layout == LAYOUT and one_grid(linears.values(), table) else found

    def parse(self, config: Mapping[str, Any], embedding: str, head: str | None) -> dict[str, StoredTable]:
        """The tables that a `quantization_config` says are quantised, by name."""
        if config.get("quant_method") != METHOD:
            return {}
        schemes, ignored = schemes_by_target(config), strings(config.get("ignore") or [], "ignore")
        found = {}
        for name, kind in ((embedding, EMBEDDING_CLASS), (head, CLASS)):
            target = name and decisive_target(name, tuple(schemes), kind)
            if target and decisive_target(name, ignored, kind) is None:
                spec, layout = schemes[target]
                if layout == PLAIN_LAYOUT and not spec.weight.symmetric:
                    raise UnsupportedError(f"{name} is {layout!r} with zero points, which omniq does not read")
                found[name] = StoredTable(name, spec, layout)
        return found

    def leaves(self, table: StoredTable) -> tuple[str, ...]:
        """The leaf names that pack() gives."""
        return plain_leaves(table.spec.weight) if table.layout == PLAIN_LAYOUT else self.linears.leaves(table.spec)

    def repeated(self, table: StoredTable) -> tuple[str, ...]:
        """Leaves that loaders also look for under the name of a head that is the embedding."""
        return ("weight_scale",) if table.layout == PLAIN_LAYOUT else ()

    def pack(self, q: QTensor, table: StoredTable) -> dict[str, Tensor]:
        """QTensor (V, D) -> tensors by leaf name; scales keep their dtype."""
        if table.layout != PLAIN_LAYOUT:
            return self.linears.pack(q)
        return pack_plain(q)

    def unpack(self, tensors: Mapping[str, Tensor], table: StoredTable, shape: tuple[int, int]) -> QTensor:
        """The inverse of pack; ModelError when a tensor does not fit a table of `shape` (V, D)."""
        if table.layout != PLAIN_LAYOUT:
            return self.linears.unpack(tensors, table.spec, shape)
        return unpack_plain(tensors, table.spec, shape, f"{table.name}.")


def plain(table: TableSpec) -> bool:
    """Whether an int8 holds a code and nothing else."""
    return table.weight.bits == PLAIN_BITS


def one_grid(linears: Iterable[LinearSpec], table: TableSpec) -> bool:
    """Whether a loader that knows one grid only expands linears and tables alike."""
    return set(linears) == {table.linear}
