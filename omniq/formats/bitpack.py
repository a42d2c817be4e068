"""Dense bit streams: codes of 2 to 8 bits without padding between them, in little-endian 32-bit words.

Also read: words that hold as many whole codes as fit, which at 3, 5, 6 and 7 bits leaves bits unused.

Code i takes bits [i * bits, (i + 1) * bits) of the stream; bit j of the stream is bit j % 32 of word j // 32. The work
is done on bytes: 8 codes are exactly `bits` bytes, whatever the width, so no temporary is larger than the codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

WORD_BITS = 32
BYTE_BITS = 8


def words_for(length: int, bits: int) -> int:
    """W, the 32-bit words that `length` codes take."""
    return -(-length * bits // WORD_BITS)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """codes (..., L) uint8 below 2**bits -> words (..., ceil(L * bits / 32)) int32; unused high bits are zero."""
    if codes.dtype != torch.uint8:
        raise ValueError(f"codes must be uint8, got {codes.dtype}")
    if codes.numel() and int(codes.max()) >> bits:
        raise ValueError(f"a code is {int(codes.max())}, which does not fit {bits} bits")
    length = codes.shape[-1]
    padded = torch.nn.functional.pad(codes, (0, -length % WORD_BITS))
    octets = padded.view(*codes.shape[:-1], padded.shape[-1] // BYTE_BITS, BYTE_BITS)
    packed = torch.zeros(*octets.shape[:-1], bits, dtype=torch.uint8, device=codes.device)
    for code, byte, left in _overlaps(bits):
        packed[..., byte] |= _shifted(octets[..., code], left)
    words = packed.view(*codes.shape[:-1], octets.shape[-2] * bits).view(torch.int32)
    return words[..., : words_for(length, bits)].contiguous()


def unpack_bits(words: Tensor, bits: int, length: int) -> Tensor:
    """words (..., ceil(length * bits / 32)) int32 -> codes (..., length) uint8: the inverse of pack_bits."""
    count = words_for(length, bits)
    if words.dtype != torch.int32 or words.shape[-1] != count:
        raise ValueError(f"{length} codes of {bits} bits are {count} int32 words, got {words.shape[-1]} {words.dtype}")
    padded = torch.nn.functional.pad(words, (0, -words.shape[-1] % bits)).contiguous()
    groups = padded.shape[-1] * (WORD_BITS // BYTE_BITS) // bits
    packed = padded.view(torch.uint8).view(*words.shape[:-1], groups, bits)
    codes = torch.zeros(*words.shape[:-1], groups, BYTE_BITS, dtype=torch.uint8, device=words.device)
    for code, byte, left in _overlaps(bits):
        codes[..., code] |= _shifted(packed[..., byte], -left)
    codes &= 2**bits - 1
    return codes.view(*words.shape[:-1], groups * BYTE_BITS)[..., :length].contiguous()


def padded_words_for(length: int, bits: int) -> int:
    """The 32-bit words that `length` codes take when none reaches into the next word."""
    return -(-length // (WORD_BITS // bits))


def unpack_padded(words: Tensor, bits: int, length: int) -> Tensor:
    """words (..., padded_words_for(length, bits)) int32 -> codes (..., length) uint8.

    A word holds as many codes as fit whole, from its lowest bits up; its highest bits are not used where some are left.
    """
    per_word = WORD_BITS // bits
    count = padded_words_for(length, bits)
    if words.dtype != torch.int32 or words.shape[-1] != count:
        raise ValueError(
            f"{length} codes of {bits} bits, {per_word} to a word, are {count} int32 words, got {words.shape[-1]} "
            f"{words.dtype}"
        )
    codes = torch.empty(*words.shape, per_word, dtype=torch.uint8, device=words.device)
    for place in range(per_word):
        codes[..., place] = (words >> place * bits) & 2**bits - 1
    return codes.view(*words.shape[:-1], -1)[..., :length].contiguous()


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """(code, byte, left) for each of 8 codes and `bits` bytes that share bits: how far left the code is to move."""
    for code in range(BYTE_BITS):
        first = code * bits
        for byte in range(first // BYTE_BITS, (first + bits - 1) // BYTE_BITS + 1):
            yield code, byte, first - byte * BYTE_BITS


def _shifted(values: Tensor, left: int) -> Tensor:
    """uint8 values moved `left` bits up (down when negative); bits that leave the byte are lost."""
    return values << left if left >= 0 else values >> -left
