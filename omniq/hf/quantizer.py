"""omniq among the quantisers of transformers, for those who ask: under its own name, and with nothing replaced.

from_pretrained picks a quantiser by the word `quant_method` of a config. What a checkpoint says there belongs to
others; a config that asks for omniq says "omniq", in memory only: save_pretrained writes what the checkpoint said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.quantization_config import QuantizationConfigMixin

from omniq.errors import ModelError, UnsupportedError, UsageError
from omniq.hf.skeleton import ATTENTION
from omniq.spec import FLOAT_BITS

METHOD = "omniq"
PLAIN_ATTENTION, EXPLICIT_ATTENTION = "sdpa", "eager"
"""What transformers chooses by itself, the second where a model does not know the first."""
CODE = ("code_revision", "trust_remote_code")
SOURCE = ("cache_dir", "local_files_only", "revision", "subfolder", "token", *CODE)
"""Arguments of from_pretrained that say where a config is read from."""


@dataclass(frozen=True)
class Request:
    """What from_pretrained was asked for. folder: of the checkpoint; activations, embed_bits: as in omniq.load."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    activations: str
    embed_bits: int
    trust_remote_code: bool


class Packing(Protocol):
    """What turns a model that from_pretrained is building into one on omniq's kernels.

    Made before that model is, since while transformers builds one, no other can be built as usual.
    """

    def take_out(self, model: nn.Module) -> None:
        """Takes out of a model on meta what is quantised, so that transformers loads only the rest."""

    def put_in(self, model: nn.Module) -> None:
        """Puts packed modules in its place, in a model that is otherwise loaded."""

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of the checkpoint, by name; UnsupportedError when the model is no longer what was loaded."""


class OmniqConfig(QuantizationConfigMixin):
    """The request for omniq's kernels in a model's config. checkpoint: what its config.json says of quantisation."""

    def __init__(
        self,
        quant_method: str,
        folder: str,
        checkpoint: dict[str, Any],
        activations: str,
        embed_bits: int,
        trust_remote_code: bool,
    ) -> None:
        self.quant_method, self.folder, self.checkpoint = quant_method, folder, checkpoint
        self.activations, self.embed_bits, self.trust_remote_code = activations, embed_bits, trust_remote_code

    def to_dict(self) -> dict[str, Any]:
        """What config.json says: the checkpoint is what it was, whoever computes with it."""
        return copy.deepcopy(self.checkpoint)


class OmniqQuantizer(HfQuantizer):
    """Called by from_pretrained and save_pretrained. Uses only those hooks that every transformers 5 has."""

    requires_calibration = True
    start: Callable[[Request], Packing]
    """Given by register()."""

    def update_device_map(self, device_map: Any) -> dict[str, torch.device]:
        """One device for the whole model: a packed layout is made for the device it is used on."""
        self.device = one_device(device_map)
        return {"": self.device}

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Called when the files are there, before the model is built."""
        asked = self.quantization_config
        self.packing = self.start(
            Request(
                Path(asked.folder), self.device, dtype, asked.activations, asked.embed_bits, asked.trust_remote_code
            )
        )
        return dtype

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        folder = self.quantization_config.folder
        if getattr(model.config, "distributed_config", None) is not None:
            raise UnsupportedError(
                "omniq's kernels hold a model on one device, so distributed_config cannot be followed; "
                "serve the checkpoint over several with vLLM"
            )
        if {Path(file).parent.resolve() for file in checkpoint_files or ()} != {Path(folder).resolve()}:
            raise UsageError(
                f"this config was made by kernel_config for {folder}, but other weights are to be loaded; "
                "make one for the model that is loaded"
            )
        self.packing.take_out(model)
        # The packed tensors; omniq compares names with the model itself.
        model._keys_to_ignore_on_load_unexpected = {""}

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        self.packing.put_in(model)
        return model

    def is_serializable(self) -> bool:
        """save_pretrained writes the checkpoint as it was loaded."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Packed layers are for inference."""
        return False

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What save_pretrained writes."""
        return self.packing.stored(model), {}


def one_device(device_map: Any) -> torch.device:
    """The device that a device_map names; "auto" and its kind take the first GPU, None and no GPU the CPU."""
    if device_map is None or isinstance(device_map, str):
        return torch.device("cuda", 0) if device_map is not None and torch.cuda.is_available() else torch.device("cpu")
    # A number is that of a GPU; torch refuses to say so where there is none.
    named = (f"cuda:{place}" if isinstance(place, int) else str(place) for place in device_map.values())
    places = {place if place == "disk" else torch.device(place) for place in named}
    if len(places) > 1 or "disk" in places:
        listed = ", ".join(sorted(map(str, places)))
        raise UnsupportedError(
            f"device_map spreads the model over {listed}, but omniq's kernels hold a model on one device; "
            'use device_map="auto" or one device, or serve the checkpoint over several with vLLM'
        )
    return places.pop()


def register(start: Callable[[Request], Packing]) -> None:
    """Makes the name "omniq" known to transformers; every other name stays with whom it belongs to."""
    OmniqQuantizer.start = staticmethod(start)
    register_quantization_config(METHOD)(OmniqConfig)
    register_quantizer(METHOD)(OmniqQuantizer)


def kernel_config(
    model: str | Path,
    *,
    activations: str = "exact",
    embed_bits: int = FLOAT_BITS,
    config: PreTrainedConfig | None = None,
    **source: Any,
) -> PreTrainedConfig:
    """The config of a quantised checkpoint that asks for omniq's kernels: from_pretrained(model, config=...).

    model: a folder or a hub id. activations, embed_bits: as in omniq.load. config: one to start from, left as it is.
    source: SOURCE, as from_pretrained takes them.
    """
    unknown = sorted(set(source) - set(SOURCE))
    if unknown:
        raise UsageError(
            f"kernel_config has no argument {unknown[0]!r}; of from_pretrained it takes {', '.join(SOURCE)}"
        )
    config = AutoConfig.from_pretrained(model, **source) if config is None else copy.deepcopy(config)
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, Mapping):
        raise ModelError(
            f"{model} is not quantised (its config has no quantization_config), which omniq's kernels are for; "
            "load it with transformers, or quantise it first"
        )
    located = {name: source[name] for name in source if name not in CODE}
    config.quantization_config = {
        "quant_method": METHOD,
        "folder": str(Path(cached_file(model, CONFIG_NAME, **located)).parent),
        "checkpoint": dict(entry),
        "activations": activations,
        "embed_bits": embed_bits,
        "trust_remote_code": bool(source.get("trust_remote_code")),
    }
    return config


class AutoModelForCausalLM(transformers.AutoModelForCausalLM):
    """transformers' class of that name, whose from_pretrained gives quantised checkpoints on omniq's kernels."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        activations: str = "exact",
        embed_bits: int = FLOAT_BITS,
        config: PreTrainedConfig | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """The model on one device: device_map="auto" or a device; without it on the CPU.

        activations, embed_bits: as omniq.load. kwargs: as transformers', of which settings of the config go in config.
        """
        if kwargs.get("quantization_config") is not None:
            raise UsageError(
                "a quantization_config asks for another quantiser; leave it out for omniq's kernels, "
                "or load with transformers' own AutoModelForCausalLM"
            )
        source = {name: kwargs[name] for name in SOURCE if name in kwargs}
        asked = kernel_config(
            pretrained_model_name_or_path, activations=activations, embed_bits=embed_bits, config=config, **source
        )
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=asked, **kwargs)


def use_attention(model: nn.Module, quantised: bool) -> None:
    """Has a model on meta attend by omniq's function where transformers chose its attention by itself.

    quantised: q, k and v pass through a grid there, so that no other attention will do.
    """
    chosen = model.config._attn_implementation
    if chosen == (PLAIN_ATTENTION if type(model)._supports_sdpa else EXPLICIT_ATTENTION):
        model.set_attn_implementation(ATTENTION)
    elif quantised:
        raise UnsupportedError(
            f"this checkpoint quantises q, k and v inside attention, which attn_implementation={chosen!r} does not "
            "compute; leave attn_implementation out"
        )
