"""omniq generate: text from a quantised checkpoint on omniq's kernels."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from omniq.cli import options as o

SAMPLING = "Text"

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What the model goes on from, or answers.")]
Count = Annotated[
    int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens to write at most.", rich_help_panel=SAMPLING)
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0 takes the likeliest token each time.", rich_help_panel=SAMPLING)
]
Chat = Annotated[
    bool | None,
    o.option(
        "--chat/--no-chat",
        panel=SAMPLING,
        default="where the tokenizer has a chat template",
        help="Put the prompt as a user's message.",
    ),
]
SampleSeed = Annotated[int, typer.Option("--seed", help="Seed of the sampling.", rich_help_panel=SAMPLING)]


def command(
    checkpoint: o.Checkpoint,
    prompt: Prompt,
    max_new_tokens: Count = 64,
    temperature: Temperature = 0.0,
    chat: Chat = None,
    seed: SampleSeed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    activations: o.Activations = "exact",
    embed_bits: o.EmbedBits = 16,
    trust_remote_code: o.TrustRemoteCode = False,
    as_json: o.Json = False,
) -> None:
    """Write text with a quantised model."""
    import torch

    from omniq import hf, runtime
    from omniq.cli.render import print_json
    from omniq.devices import device_named, dtype_named
    from omniq.source import checked_folder

    hf.quiet()
    tokenizer = hf.load_tokenizer(checked_folder(checkpoint), trust_remote_code=trust_remote_code)
    ids = prompt_ids(tokenizer, prompt, chat)
    where = device_named(device)
    shared = {"activations": activations, "embed_bits": embed_bits, "trust_remote_code": trust_remote_code}
    model = runtime.load(checkpoint, where, dtype_named(dtype), **shared)
    torch.manual_seed(seed)
    start = time.perf_counter()
    new = continuation(model, torch.tensor([ids], device=where), max_new_tokens, temperature)
    seconds = time.perf_counter() - start
    text = tokenizer.decode(new, skip_special_tokens=True)
    if as_json:
        facts = {"prompt": prompt, "text": text, "tokens": len(new), "seconds": seconds}
        return print_json(facts | {"kernels": runtime.kernels_of(model), "unfused": model.omniq_unfused})
    typer.echo(text)
    typer.echo(f"{len(new)} tokens, {len(new) / seconds:.1f} a second, on {runtime.kernels_in_words(model)}", err=True)


def prompt_ids(tokenizer: Any, prompt: str, chat: bool | None) -> list[int]:
    """The prompt's ids; as a user's message when `chat`, or when it is None and the tokenizer has a template."""
    from omniq.errors import UsageError
    from omniq.text import in_template

    template = tokenizer.chat_template is not None
    if chat and not template:
        raise UsageError("--chat needs a tokenizer with a chat template, which this model does not have; leave it out")
    if template if chat is None else chat:
        prompt = in_template(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)
        return tokenizer(prompt, add_special_tokens=False).input_ids
    ids = tokenizer(prompt).input_ids
    if not ids:
        raise UsageError("the prompt is empty; give some text to go on from")
    return ids


def continuation(model: Any, ids: Any, count: int, temperature: float) -> list[int]:
    """ids (1, T) -> at most `count` new tokens."""
    from omniq import hf

    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    cache = hf.growing_cache(model.config)
    done = model.generate(
        input_ids=ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=count, past_key_values=cache, **sampling
    )
    return done[0, ids.shape[1] :].tolist()
