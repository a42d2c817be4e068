"""Hadamard matrices, and the orthogonal transform of any width that is made of them.

A Hadamard matrix H of order n has entries +1 and -1 and H H^T = n I, so x H / sqrt(n) keeps lengths and spreads every
outlier evenly over all n channels. Orders 1, 2, those of Sylvester (powers of two) and of Paley (On orthogonal
matrices, 1933: two constructions) are made here from their equations. A width n = m p, with p a power of two, is
transformed by core(m) (x) H_p, whose cost per value is m + log2 p rather than n.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

LARGEST_CORE = 256
"""Orders above this are not tried for the factor that is no power of two: its product is dense."""
LARGEST_STEP = 128
"""Powers of two are applied as products of at most this order each, which torch multiplies at full speed."""


def is_prime(q: int) -> bool:
    """Whether q is a prime number."""
    return q > 1 and all(q % d for d in range(2, int(q**0.5) + 1))


def has_hadamard(n: int) -> bool:
    """Whether hadamard(n) is constructed here: powers of two, and Paley's two kinds over a prime field."""
    if n & (n - 1) == 0:
        return n > 0
    return n % 4 == 0 and (is_prime(n - 1) or (is_prime(n // 2 - 1) and (n // 2 - 1) % 4 == 1))


@lru_cache(maxsize=32)
def hadamard(n: int) -> Tensor:
    """A Hadamard matrix (n, n) float64 of +1 and -1 with H H^T = n I; ValueError for an order that has none here."""
    if not has_hadamard(n):
        raise ValueError(f"no Hadamard matrix of order {n} is constructed here")
    if n & (n - 1) == 0:
        return _sylvester(n)
    return _paley_first(n - 1) if is_prime(n - 1) else _paley_second(n // 2 - 1)


def _sylvester(n: int) -> Tensor:
    """H_1 = (1), H_2n = ((H_n, H_n), (H_n, -H_n))."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def _jacobsthal(q: int) -> Tensor:
    """(q, q) float64: entry (i, j) is 0 on the diagonal, +1 where i - j is a square modulo the prime q, else -1."""
    character = -torch.ones(q, dtype=torch.float64)
    character[[i * i % q for i in range(q)]] = 1
    character[0] = 0
    index = torch.arange(q)
    return character[(index.unsqueeze(1) - index) % q]


def _bordered(q: int, sign: int) -> Tensor:
    """(q + 1, q + 1): the Jacobsthal matrix below a row of ones and right of a column of `sign`, zero in the corner."""
    c = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    c[0, 1:], c[1:, 0], c[1:, 1:] = 1, sign, _jacobsthal(q)
    return c


def _paley_first(q: int) -> Tensor:
    """Order q + 1 for a prime q = 3 mod 4: I + C with C skew, C C^T = q I."""
    return torch.eye(q + 1, dtype=torch.float64) + _bordered(q, -1)


def _paley_second(q: int) -> Tensor:
    """Order 2 (q + 1) for a prime q = 1 mod 4: C (x) ((1, 1), (1, -1)) + I (x) ((1, -1), (-1, -1)), C symmetric."""
    ones = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    turned = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(_bordered(q, 1), ones) + torch.kron(torch.eye(q + 1, dtype=torch.float64), turned)


def hartley(n: int) -> Tensor:
    """The discrete Hartley transform (n, n) float64: entry cos + sin of 2 pi i j / n, over sqrt(n).

    Orthogonal and symmetric at every order, no entry above sqrt(2 / n): where no Hadamard matrix exists it spreads
    outliers as evenly, up to that factor of sqrt(2).
    """
    index = torch.arange(n, dtype=torch.float64)
    # Reduced modulo n before the multiplication by 2 pi, so that large products lose no digits.
    angle = (index.unsqueeze(1) * index).remainder(n) * (2 * torch.pi / n)
    return (angle.cos() + angle.sin()) / n**0.5


@lru_cache(maxsize=256)
def factors(n: int) -> tuple[int, int]:
    """n -> (m, p) with n = m p and p a power of two; m is the smallest order of a Hadamard matrix that leaves such a p.

    Where there is none up to LARGEST_CORE, m is the odd part of n.
    """
    power = n & -n
    odd = n // power
    orders = (odd << shift for shift in range(power.bit_length()) if odd << shift <= LARGEST_CORE or odd == 1)
    m = next((order for order in orders if has_hadamard(order)), odd)
    return m, n // m


@lru_cache(maxsize=64)
def core(m: int) -> Tensor:
    """An orthogonal matrix (m, m) float64 of entries as equal as can be: Hadamard, or Hartley where there is none."""
    return hadamard(m) / m**0.5 if has_hadamard(m) else hartley(m)


@lru_cache(maxsize=64)
def steps(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Orthogonal matrices whose Kronecker product is the transform of width n, in order of the axes of x."""
    m, p = factors(n)
    sizes = []
    while p > 1:
        sizes.append(min(p, LARGEST_STEP))
        p //= sizes[-1]
    made = [core(m)] if m > 1 else []
    made += [hadamard(size) / size**0.5 for size in sizes]
    return tuple(matrix.to(device, dtype) for matrix in made)


def transformed(x: Tensor) -> Tensor:
    """x (..., K) -> x T (..., K) in x.dtype, T orthogonal and fixed by K; computed in float32, float64 if x is.

    Matrix products of a small order each, whatever autocast says: the reference for every faster transform.
    """
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        y = x.to(work)
        for matrix in steps(x.shape[-1], work, x.device):
            # The leading axis of those left goes last: after all steps every axis is back in its place.
            size = len(matrix)
            y = y.reshape(-1, size, x.shape[-1] // size).transpose(1, 2).reshape(-1, size) @ matrix
    return y.reshape(x.shape).to(x.dtype)


def matrix(n: int) -> Tensor:
    """T (n, n) float64, the orthogonal matrix of transformed() at this width."""
    return transformed(torch.eye(n, dtype=torch.float64))
