"""Compiling a Triton kernel ahead of time, without a GPU, and reading the machine code that comes out."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32"}


@dataclass(frozen=True)
class Binary:
    """Machine code of one kernel: instructions as (address, text), shared memory in bytes."""

    code: tuple[tuple[int, str], ...]
    shared: int

    def loop(self) -> list[str]:
        """The longest loop that holds a tensor-core instruction."""
        loops = [[]]
        for address, text in self.code:
            jump = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
            if jump and int(jump[1], 16) <= address:
                body = [line for place, line in self.code if int(jump[1], 16) <= place <= address]
                loops.append(body if any("MMA" in line for line in body) else [])
        return max(loops, key=len)

    def count(self, word: str) -> int:
        """Instructions whose name starts with `word`."""
        return sum(re.match(rf"(@!?U?P\w+ )?{word}", text) is not None for _, text in self.code)


def binary(kernel, types: dict[str, str], constants: dict, capability: int, warps: int, stages: int) -> Binary:
    """The kernel for `capability` (90 is sm_90). Pointers and sizes divide by 16, as in any real model."""
    names = [parameter.name for parameter in kernel.params]
    loose = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [i for i, name in enumerate(names) if name not in constants and name not in loose]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    return Binary(tuple(instructions(compiled.asm["cubin"])), compiled.metadata.shared)


def instructions(cubin: bytes) -> list[tuple[int, str]]:
    """(address, text) of every instruction, by the disassembler that comes with Triton."""
    folder = Path(triton.knobs.cache.dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "inspected.cubin"
    path.write_bytes(cubin)
    tool = triton.knobs.nvidia.cuobjdump.path
    text = subprocess.run([tool, "-sass", str(path)], capture_output=True, text=True, check=True).stdout
    return [(int(place, 16), line) for place, line in re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", text, re.M)]
