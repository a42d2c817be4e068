"""Faults that benchmarks/mutants.py plants, one at a time, in what computes and stores the numbers.

Each is what a slip of the hand would leave: a flipped sign, a zero point off by one, a swapped axis, another rounding.
`old` stands exactly once in its file (tests/test_mutants.py checks that), and `tests` are the files that must notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omniq.errors import UsageError


@dataclass(frozen=True)
class Fault:
    """name: what is wrong. file: from the root of the sources. old, new: text. tests: names of files, without test_."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, root: Path) -> str:
        """The text of the file in `root` with the fault in it; UsageError where the place to put it is gone."""
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if (count := text.count(self.old)) != 1:
            raise UsageError(
                f"{self.name}: {self.file} has {self.old!r} {count} times, not once; the source has changed, so write "
                "this fault anew in benchmarks/mutant_list.py"
            )
        return text.replace(self.old, self.new)


GRID = (
    Fault(
        "zero point off by one", "omniq/grid.py",
        "return scales, (-lo / scales).round().clamp(0, spec.qmax).detach()",
        "return scales, ((-lo / scales).round() + 1).clamp(0, spec.qmax).detach()", ("grid",),
    ),
    Fault(
        "sign of a symmetric scale flipped", "omniq/grid.py",
        "torch.where(-lo >= hi, -lo, -hi) / spec.mid", "torch.where(-lo >= hi, -lo, hi) / spec.mid", ("grid",),
    ),
    Fault(
        "weights rounded down", "omniq/grid.py",
        "codes = (groups / stored.float().unsqueeze(-1)).round() + zeros",
        "codes = (groups / stored.float().unsqueeze(-1)).floor() + zeros", ("grid",),
    ),
    Fault(
        "codes not clamped", "omniq/grid.py",
        "codes = codes.clamp(0, spec.qmax).to(torch.uint8)", "codes = codes.to(torch.uint8)", ("grid", "pieces"),
    ),
    Fault(
        "one step too many in a range", "omniq/grid.py",
        "scales = (hi - lo) / spec.qmax", "scales = (hi - lo) / (spec.qmax + 1)", ("grid",),
    ),
    Fault(
        "range does not hold zero", "omniq/grid.py",
        "return groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)",
        "return groups.amin(-1), groups.amax(-1)", ("grid",),
    ),
    Fault(
        "groups along the wrong axis", "omniq/grid.py",
        "return weight.reshape(n, spec.groups(k), spec.width(k))",
        "return weight.reshape(n, spec.width(k), spec.groups(k)).transpose(1, 2)", ("grid",),
    ),
    Fault(
        "gradient passes outside the range only", "omniq/grid.py",
        "grad_weight = grad * inside if", "grad_weight = grad * ~inside if", ("grid",),
    ),
    Fault(
        "gradient of the zero point flipped", "omniq/grid.py",
        "grad_zeros = -(grad * ~inside)", "grad_zeros = (grad * ~inside)", ("grid", "pieces"),
    ),
    Fault(
        "gradient of the scale ignores rounding", "omniq/grid.py",
        "torch.where(inside, codes - steps, codes)", "torch.where(inside, torch.zeros_like(codes), codes)", ("grid",),
    ),
    Fault(
        "zero point of a token flipped", "omniq/grid.py",
        "(low - lo / scales).clamp(low, high)", "(low + lo / scales).clamp(low, high)", ("grid",),
    ),
    Fault(
        "token decoded with the zero point added", "omniq/grid.py",
        "    return (codes - zeros) * scales\n", "    return (codes + zeros) * scales\n", ("grid",),
    ),
    Fault(
        "vanishing scale not replaced", "omniq/grid.py",
        "scales = torch.where(scales.abs() < tiny, torch.ones_like(scales), scales)\n", "del tiny\n", ("grid",),
    ),
    Fault(
        "weight decoded with the zero point added", "omniq/qtensor.py",
        "(codes - self.zeros.to(work)", "(codes + self.zeros.to(work)", ("qtensor",),
    ),
    Fault(
        "zero points counted where there are none", "omniq/qtensor.py",
        "(0 if self.spec.symmetric else self.spec.bits)", "(self.spec.bits if self.spec.symmetric else 0)",
        ("qtensor",),
    ),
    Fault(
        "Hadamard not normalised", "omniq/hadamard.py",
        "[hadamard(size) / size**0.5 for size in sizes]", "[hadamard(size) / size for size in sizes]", ("hadamard",),
    ),
    Fault(
        "Jacobsthal matrix transposed", "omniq/hadamard.py",
        "character[(index.unsqueeze(1) - index) % q]", "character[(index - index.unsqueeze(1)) % q]", ("hadamard",),
    ),
)  # fmt: skip

STORED = (
    Fault(
        "bits shifted the other way", "omniq/formats/bitpack.py",
        "yield code, byte, first - byte * BYTE_BITS", "yield code, byte, byte * BYTE_BITS - first", ("formats",),
    ),
    Fault(
        "padded words read from the top", "omniq/formats/bitpack.py",
        "(words >> place * bits) & 2**bits - 1", "(words >> (per_word - 1 - place) * bits) & 2**bits - 1",
        ("formats", "stored_tables"),
    ),
    Fault(
        "wrong nibble order of AWQ", "omniq/formats/awq.py",
        "ORDER = (0, 2, 4, 6, 1, 3, 5, 7)", "ORDER = (0, 1, 2, 3, 4, 5, 6, 7)", ("gptq_awq", "golden"),
    ),
    Fault(
        "GPTQ zero points not less one", "omniq/formats/gptq.py",
        "zeros = q.zeros - 1 if self.layout == V1 else q.zeros", "zeros = q.zeros", ("gptq_awq",),
    ),
    Fault(
        "GPTQ zero points decreased when read", "omniq/formats/gptq.py",
        "(words.to(torch.int64) + ones + 2**31)", "(words.to(torch.int64) - ones + 2**31)", ("gptq_awq",),
    ),
    Fault(
        "GPTQ group index wraps round", "omniq/formats/gptq.py",
        "torch.arange(k, dtype=torch.int32) // spec.width(k)", "torch.arange(k, dtype=torch.int32) % spec.width(k)",
        ("gptq_awq",),
    ),
    Fault(
        "zero points packed along the groups", "omniq/formats/compressed_tensors.py",
        "pack_bits(q.zeros.T.contiguous(), bits).T.contiguous()", "pack_bits(q.zeros.contiguous(), bits)",
        ("golden", "formats"),
    ),
    Fault(
        "int8 codes off by one", "omniq/formats/ct_plain.py",
        "return (values - spec.mid).view(torch.int8)", "return (values - spec.mid + 1).view(torch.int8)",
        ("ct_tables", "stored_tables"),
    ),
    Fault(
        "GGUF nibbles swapped", "omniq/gguf/blocks.py",
        "values[:, : SMALL // 2] | values[:, SMALL // 2 :] << 4",
        "values[:, SMALL // 2 :] | values[:, : SMALL // 2] << 4", ("gguf",),
    ),
    Fault(
        "GGUF fifth bits reversed", "omniq/gguf/blocks.py",
        "(codes >> 4).view(-1, 4, 8) << places)", "(codes >> 4).view(-1, 4, 8) << places.flip(0))", ("gguf",),
    ),
    Fault(
        "GGUF codes not turned with their scale", "omniq/gguf/blocks.py",
        "codes = torch.where(turned, 15 - grid.codes, grid.codes)", "codes = grid.codes", ("gguf",),
    ),
    Fault(
        "GGUF codes moved by one too many", "omniq/gguf/blocks.py",
        "return (signed + middle).to(torch.uint8)", "return (signed + middle + 1).to(torch.uint8)", ("gguf",),
    ),
    Fault(
        "GGUF minima without their scale", "omniq/gguf/blocks.py",
        "ones, grid.zeros, ones | grid.zeros << 4", "ones, grid.zeros, grid.zeros << 4", ("gguf",),
    ),
)  # fmt: skip

KERNELS = (
    Fault(
        "activations decoded with the zero point added", "kernels/reference.py",
        "(codes.to(work) - zeros.to(work)) * scales", "(codes.to(work) + zeros.to(work)) * scales", ("kernels",),
    ),
    Fault(
        "reference multiplies in half precision", "kernels/reference.py",
        "work = torch.float64 if x.dtype == torch.float64 else torch.float32",
        "work = torch.float64 if x.dtype == torch.float64 else x.dtype", ("kernels",),
    ),
    Fault(
        "zero points added on the way to a product", "kernels/torch_dequant.py",
        "groups.sub_(packed[", "groups.add_(packed[", ("kernels",),
    ),
    Fault(
        "fields shifted without their sign", "kernels/torch_dequant.py",
        ".bitwise_right_shift_(BYTE_BITS - width)[", ".view(torch.uint8).bitwise_right_shift_(BYTE_BITS - width)[",
        ("kernels",),
    ),
    Fault(
        "planes of fields in the other order", "kernels/torch_dequant.py",
        "BYTE_BITS - (index + 1) * width)", "index * width)", ("kernels",),
    ),
    Fault(
        "CPU layout with rows and columns exchanged", "kernels/cpu_layout.py",
        "steps.permute(0, 3, 4, 1, 5, 2, 6).flatten(-2)", "steps.permute(0, 3, 4, 1, 5, 6, 2).flatten(-2)",
        ("cpu_layout", "kernels"),
    ),
    Fault(
        "attention looks ahead", "omniq/attention.py",
        ".tril(s - t)", ".tril(s - t + 1)", ("hf",),
    ),
)  # fmt: skip

CALIBRATED = (
    Fault(
        "errors added instead of compensated", "calibrate/methods/gptq.py",
        "work[:, stop:] -= errors @", "work[:, stop:] += errors @", ("calibrate",),
    ),
    Fault(
        "error of a column doubled in the next", "calibrate/methods/gptq.py",
        "factor[column, column:stop], alpha=-1)", "factor[column, column:stop], alpha=1)", ("calibrate",),
    ),
    Fault(
        "factor transposed", "calibrate/methods/gptq.py",
        "upper = lower.flip(0, 1)", "upper = lower.T.contiguous()", ("calibrate", "numerics"),
    ),
    Fault(
        "damping dropped", "calibrate/methods/gptq.py",
        "hessian.diagonal().copy_(diagonal + scale * mean)", "hessian.diagonal().copy_(diagonal)",
        ("calibrate", "numerics"),
    ),
    Fault(
        "damping that grew not told", "calibrate/methods/gptq.py",
        "return _upper_inverse(upper), scale\n", "return _upper_inverse(upper), damp\n", ("numerics",),
    ),
    Fault(
        "codes left in visiting order", "calibrate/methods/gptq.py",
        "back = order.argsort()", "back = order", ("calibrate", "tuning"),
    ),
    Fault(
        "groups left in visiting order", "calibrate/methods/gptq.py",
        "groups = (order[::width] // width).argsort()", "groups = order[::width] // width", ("calibrate", "tuning"),
    ),
    Fault(
        "second moments of magnitudes", "calibrate/stats.py",
        "self._gram.addmm_(x.T, x)", "self._gram.addmm_(x.T, x.abs())", ("calibrate", "numerics", "tuning"),
    ),
    Fault(
        "smallest instead of largest activation", "calibrate/stats.py",
        "torch.maximum(self.value, seen)", "torch.minimum(self.value, seen)", ("pieces",),
    ),
    Fault(
        "columns divided where they are to be multiplied", "calibrate/pieces/let.py",
        'columns * self._spread(self.scale)', 'columns / self._spread(self.scale)', ("pieces",),
    ),
    Fault(
        "norm that stores its weight less one forgotten", "calibrate/pieces/let.py",
        "(params[weight] + self.offset) / self.scale - self.offset", "params[weight] / self.scale", ("pieces",),
    ),
    Fault(
        "shift with the wrong sign", "calibrate/pieces/let.py",
        'params[name + ".bias"] + original @ self.shift', 'params[name + ".bias"] - original @ self.shift',
        ("pieces",),
    ),
    Fault(
        "q and k both divided", "calibrate/pieces/let.py",
        "(self.spec.k, self.k, scale)):", "(self.spec.k, self.k, 1 / scale)):", ("pieces",),
    ),
    Fault(
        "offsets lead to codes without their zero point", "calibrate/pieces/rounding.py",
        "wanted = start.codes.view(steps.shape).float() - zeros", "wanted = start.codes.view(steps.shape).float()",
        ("tuning",),
    ),
    Fault(
        "ranges of one sign not searched", "calibrate/pieces/ranges.py",
        "best.offer(none, ratio * largest)", "best.offer(-ratio * largest, none)", ("tuning",),
    ),
    Fault(
        "error of a group without its inputs", "calibrate/pieces/ranges.py",
        "return ((delta @ blocks) * delta).sum(-1).T", "return delta.square().sum(-1).T", ("tuning",),
    ),
    Fault(
        "moments scaled with the columns", "calibrate/pieces/scaling.py",
        "found.grams[name] / torch.outer(column, column)", "found.grams[name] * torch.outer(column, column)",
        ("tuning", "calibrate"),
    ),
    Fault(
        "steps up the gradient", "calibrate/tuning.py",
        "alpha=-rate * left)", "alpha=rate * left)", ("tuning",),
    ),
    Fault(
        "rates that do not fall", "calibrate/tuning.py",
        "left = 1 - step / tuning.steps", "left = 1.0", ("tuning",),
    ),
    Fault(
        "worst iterate kept", "calibrate/training.py",
        "if loss < best or not", "if loss > best or not", ("calibrate",),
    ),
    Fault(
        "sinks counted in the loss", "calibrate/training.py",
        "(power <= SINK *", "(power >= SINK *", ("numerics", "calibrate"),
    ),
    Fault(
        "step that is not finite taken", "calibrate/tuning.py",
        "        if _gradients(view, block, [stream[rows] for stream in streams], tuning.drop):\n",
        "        if not _gradients(view, block, [stream[rows] for stream in streams], tuning.drop):\n", ("tuning",),
    ),
    Fault(
        "divergence of the wrong model's tokens", "calibrate/endtoend.py",
        "(p.exp() * (p - q)).masked_fill", "(q.exp() * (p - q)).masked_fill", ("endtoend",),
    ),
    Fault(
        "gradient not divided by the sequences", "calibrate/endtoend.py",
        "            gradient /= len(rows)\n", "", ("endtoend",),
    ),
    Fault(
        "integers decoded without their zero point", "calibrate/finished.py",
        ".float() - q.zeros.float().unsqueeze(-1)", ".float()", ("endtoend",),
    ),
    Fault(
        "worse range of activations taken", "calibrate/clips.py",
        "return min(ratios, key=error)", "return max(ratios, key=error)", ("calibrate", "rotated_pipeline"),
    ),
    Fault(
        "bits spent where they gain least", "calibrate/allocation.py",
        "return (b[1] - a[1]) / (b[0] - a[0])", "return (a[1] - b[1]) / (b[0] - a[0])", ("allocation",),
    ),
    Fault(
        "empty groups taken for constant ones", "calibrate/watched.py",
        "return same & (lo == 0), same & (lo != 0)", "return same & (lo != 0), same & (lo == 0)", ("numerics",),
    ),
)  # fmt: skip

MEASURED = (
    Fault(
        "KL the wrong way round", "omniq/eval/divergence.py",
        "(p.exp() * (p - q))", "(q.exp() * (q - p))", ("eval",),
    ),
    Fault(
        "likelihood with the wrong sign", "omniq/eval/perplexity.py",
        "return -log_p.gather", "return log_p.gather", ("eval",),
    ),
    Fault(
        "tokens predicted from themselves", "omniq/eval/base.py",
        "targets = ids[:, 1:].flatten()", "targets = ids[:, :-1].flatten()", ("eval",),
    ),
    Fault(
        "windows that overlap", "omniq/eval/windows.py",
        "torch.arange(count) * have // count", "torch.arange(count) * (have - 1) // count", ("eval",),
    ),
    Fault(
        "p-value of one side", "omniq/audit/statistics.py",
        "min(1.0, 2 * (tail + 1) / (len(draws) + 1))", "min(1.0, (tail + 1) / (len(draws) + 1))",
        ("audit_statistics",),
    ),
    Fault(
        "the observed table left out of the tail", "omniq/audit/statistics.py",
        "range(min(up, down) + 1)", "range(min(up, down))", ("audit_statistics",),
    ),
    Fault(
        "Holm's steps in the wrong order", "omniq/audit/statistics.py",
        "(len(p_values) - place)", "(place + 1)", ("audit_statistics",),
    ),
    Fault(
        "ties count nothing", "omniq/audit/statistics.py",
        "below = np.cumsum(own, 1) - 0.5 * own", "below = np.cumsum(own, 1) - own", ("audit_statistics",),
    ),
    Fault(
        "interval of 90 %", "omniq/audit/statistics.py",
        "INTERVAL = (0.025, 0.975)", "INTERVAL = (0.05, 0.95)", ("audit_statistics",),
    ),
    Fault(
        "both groups resampled by the same draws", "omniq/audit/statistics.py",
        "np.random.default_rng([seed, stream, start])", "np.random.default_rng([seed, start])",
        ("audit_statistics",),
    ),
)  # fmt: skip

FAULTS = (*GRID, *STORED, *KERNELS, *CALIBRATED, *MEASURED)
