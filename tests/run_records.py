"""Records of quantisation runs for tests: plausible ones, and one whose every text tries to break out of a page."""

from __future__ import annotations

from dataclasses import replace

from omniq.reporting.record import BlockRecord, LinearRecord, Record

KINDS = ("self_attn.q_proj", "mlp.experts.0.up_proj", "mlp.experts.1.up_proj", "mlp.down_proj")
HOSTILE = "<script>alert('x')</script>\" onload=\"x"


def linear(block: int, kind: str, error: float = 0.01, bits: int = 4) -> LinearRecord:
    """A linear of a block. error: of its output, squared and relative."""
    name = f"model.layers.{block}.{kind}"
    return LinearRecord(name, f"W{bits}A16g64", (96, 64), error, error / 2, 0.003, bits - 0.5)


def block(index: int, mixed: bool = False) -> BlockRecord:
    """A block of a preset that trains, with one expert that no token reached."""
    linears = tuple(linear(index, kind, 0.01 * (index + 1), 3 if mixed and "mlp" in kind else 4) for kind in KINDS)
    silent = replace(linears[2], output=None)
    linears = (*linears[:2], silent, *linears[3:])
    return BlockRecord(index, 2.5 + index, 0.04, 0.02, 0.03 * (index + 1), index, (silent.name,), 3 * 2**28, linears)


def record(**changes: object) -> Record:
    """A run of three blocks."""
    made = Record(
        base="org/model", from_hub=True, card={"license": "apache-2.0", "tags": ["llama"]}, scheme="W4A16g64",
        preset="default", format="compressed-tensors",
        command="omniq quantize org/model -o OUT --wbits 4 --group-size 64 --preset default",
        recipe={"scheme": "W4A16g64", "data": {"source": "text.txt", "samples": 4}}, bits_per_weight=4.25, tables=None,
        allocation=None, size_before=2**30, size_after=2**28, parameters=135_000_000,
        loaders=("transformers (5.13 or later): yes; expanded.", "vLLM: unlikely, its kernels.", "omniq: yes."),
        data="4 sequences of 256 tokens (seed 0) from text.txt", data_fingerprint="ab" * 32,
        versions={"omniq": "0.1.0", "torch": "2.13.0"}, device="cpu", threads=2, date="2026-11-23 12:00 UTC",
        seconds=75.2, resumed_at=0, peak_memory=2**29, device_peak=None, notices=("heed this",), notes=("norms stay",),
        tuned=(0.05, 0.04), quality=None, blocks=tuple(map(block, range(3))),
    )  # fmt: skip
    return replace(made, **changes)


QUALITY = {
    "ppl_original": 20.0, "ppl": 22.5, "kl": 0.0512, "top1": 0.875, "tokens": 1000, "protocol": "4 windows of 256",
}  # fmt: skip


def hostile() -> Record:
    """Every text is markup."""
    bad = replace(linear(0, "q"), name=f"model.layers.0.{HOSTILE}")
    return record(
        base=HOSTILE, preset=HOSTILE, command=HOSTILE, loaders=(f"{HOSTILE}: yes.",), data=HOSTILE, notices=(HOSTILE,),
        notes=(HOSTILE,), date=HOSTILE, versions={HOSTILE: HOSTILE, "omniq": HOSTILE}, recipe={HOSTILE: HOSTILE},
        allocation=HOSTILE, quality={**QUALITY, "protocol": HOSTILE}, device=HOSTILE, format=HOSTILE,
        blocks=(replace(block(0), linears=(bad,), unreached=(HOSTILE,)),),
    )  # fmt: skip
