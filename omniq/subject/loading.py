"""Subjects from model folders: packed checkpoints on omniq's kernels, dense ones as they are, or copies to train."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from omniq import hf, runtime
from omniq.calibrate.run import assign
from omniq.hf import open_model
from omniq.runtime import quantized_linears
from omniq.source import checked_folder, config_values
from omniq.subject.model import Subject
from omniq.subject.template import template


def is_quantized(folder: Path) -> bool:
    """Whether the folder's config.json says that its weights are quantised."""
    return bool(config_values(checked_folder(folder)).get("quantization_config"))


def load_subject(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    template_name: str = "auto",
    label: str = "",
    trust_remote_code: bool = False,
) -> Subject:
    """The model of a folder, for inference. dtype: None takes the checkpoint's."""
    tokenizer = hf.load_tokenizer(checked_folder(folder), trust_remote_code=trust_remote_code)
    if is_quantized(folder):
        model = runtime.load(folder, device, dtype, trust_remote_code=trust_remote_code)
    else:
        model = hf.load_dense(folder, dtype or "auto", trust_remote_code=trust_remote_code).to(device)
    return Subject(model.eval(), tokenizer, template(template_name, tokenizer), label or folder.name)


def load_trainable(
    folder: Path, *, device: str | torch.device = "cpu", template_name: str = "auto", trust_remote_code: bool = False
) -> Subject:
    """The model of a folder in float32, its weights trainable; quantised weights are dequantised, exactly as stored."""
    tokenizer = hf.load_tokenizer(checked_folder(folder), trust_remote_code=trust_remote_code)
    if is_quantized(folder):
        model = dequantized(folder, trust_remote_code=trust_remote_code)
    else:
        model = hf.load_dense(folder, torch.float32, trust_remote_code=trust_remote_code)
    return Subject(model.to(device).eval(), tokenizer, template(template_name, tokenizer), folder.name)


def dequantized(folder: Path, *, trust_remote_code: bool = False) -> nn.Module:
    """A checkpoint that omniq reads as a dense float32 model; grids of activations are left out."""
    opened = open_model(checked_folder(folder), trust_remote_code=trust_remote_code, quantized=True)
    for name, (q, _) in quantized_linears(opened).items():
        assign(opened.skeleton, [(f"{name}.weight", q.dequantize())])
    tables = runtime.stored_tables(opened)
    assign(opened.skeleton, tables.dense(tables.read(opened.reader)).items())
    names = [name for name, param in opened.skeleton.named_parameters() if param.is_meta]
    assign(opened.skeleton, ((name, opened.read(name).float()) for name in names))
    opened.skeleton.tie_weights()
    return opened.skeleton.requires_grad_(True)
