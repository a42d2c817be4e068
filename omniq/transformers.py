"""omniq's kernels in transformers, for those who import this module; nothing else of transformers changes.

    from omniq.transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(OUT, dtype="auto", device_map="auto")

or, where transformers' own classes are to be kept, `from_pretrained(OUT, config=kernel_config(OUT))`. A model loaded
in any other way stays with the quantiser that its config.json names. Why not `quantization_config=`: transformers
admits there only the class of what the checkpoint names, and then takes the checkpoint's own quantiser.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniq import runtime
from omniq.errors import UnsupportedError
from omniq.experts import Experts
from omniq.hf import OpenModel, open_model
from omniq.hf.quantizer import AutoModelForCausalLM, Request, kernel_config, register, use_attention
from omniq.nn import QuantLinear, swap_linear

__all__ = ["AutoModelForCausalLM", "kernel_config"]


class PackedLoad:
    """The steps of omniq.load on a model that from_pretrained builds, and loads the unquantised weights of."""

    def __init__(self, request: Request) -> None:
        self.request = request
        approximate = runtime.rounds_activations(request.activations)
        self.wanted = runtime.Wanted(request.device, request.dtype, approximate, request.embed_bits)
        opened = self.opened()
        self.left = opened, runtime.tables_to_read(opened, request.embed_bits)

    def opened(self) -> OpenModel:
        """The checkpoint's descriptions."""
        return open_model(self.request.folder, trust_remote_code=self.request.trust_remote_code, quantized=True)

    def take_out(self, model: nn.Module) -> None:
        """Leaves a model on meta without its quantised parts, and without experts, which transformers merges."""
        opened, tables = self.left
        if opened.attention_hook:
            use_attention(model, runtime.attention_grid(opened) is not None)
        if tables.places:
            # They come back packed: nothing is left for transformers to tie.
            model.all_tied_weights_keys = {}
        experts = [name for name, module in opened.skeleton.named_modules() if isinstance(module, Experts)]
        inside = tuple(f"{name}." for name in experts)
        linears = [name for name in runtime.quantized_linears(opened).names() if not name.startswith(inside)]
        self.taken = {
            name: opened.skeleton.get_submodule(name)
            for name in (*experts, *linears, *(name.removesuffix(".weight") for name in tables.parameters()))
        }
        for name in self.taken:
            swap_linear(model, name, nn.Module())

    def put_in(self, model: nn.Module) -> None:
        """Packed layers and tables in place of what was taken out."""
        for name, module in self.taken.items():
            swap_linear(model, name, module)
        runtime.filled(model, *self.left, self.wanted)
        del self.taken, self.left

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of the checkpoint, by name; UnsupportedError when the model is no longer what was loaded."""
        opened = self.opened()
        if reason := difference(model, opened):
            raise UnsupportedError(
                f"save_pretrained writes a model on omniq's kernels as the checkpoint that it was loaded from, but "
                f"{reason}; copy {self.request.folder}, or load it with transformers alone and save that"
            )
        return {name: opened.reader.read(name) for name in opened.reader.names()}


def difference(model: nn.Module, opened: OpenModel) -> str | None:
    """In what a loaded model differs from its checkpoint, or None."""
    if opened.tied != bool(model.config.tie_word_embeddings):
        return "its embedding table and output head are packed as one, which its config cannot say"
    modules = dict(model.named_modules())
    for name in runtime.quantized_linears(opened).names():
        if not isinstance(modules.get(name), QuantLinear):
            return f"{name} is no longer a packed layer"
    for name, param in model.named_parameters():
        if name not in opened.names:
            return f"it has a parameter {name} that the checkpoint has not"
        if not torch.equal(opened.read(name).to(param.dtype), param.cpu()):
            return f"{name} has changed since"
    return None


register(PackedLoad)
