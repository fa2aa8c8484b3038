"""Triton kernels of the balanced contrast: both passes over ``E = exp(X X')`` without ever writing E.

Each program owns some rows of one group and walks over its columns, as flash attention does (Dao et al., 2022): it makes a
tile of E on the chip, uses it and forgets it. So a pass is one launch, whatever the number of groups.

Tensor cores multiply 16-bit numbers many times faster than others, and add in float32. So a float32 is taken as a sum of them:

- vectors as two fp16, ``high + low``: 22 bits, since they are short (``|x_i|^2 = 1 / tau``); a product is then three;
- numbers per class, of any size, as three bf16, which is every bit. They meet members of classes, 0 or 1, exact as they are.

These sums are cut off instead of rounded (Fasi et al., 2021), and what is cut off always has the same sign. So small terms come
first, and no sum over all columns is left to tensor cores: each tile's is added to it by an ordinary, rounded addition.

Only ``fused.py`` imports this file: Triton need not be there.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(8192.0)  # fp16 holds up to 65504


@triton.jit
def class_sums(
    high, low, members, weights, sums, size, width, classes,
    D: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``sums[g, c, i] = sum_a E_ia [y_a = c]`` with ``E_ii = 0``, for groups that count; a program does ``ROWS`` rows of a group.

    high, low: the two parts of x, ``(G, size, width)``. members, sums: ``(G, classes, size)``. weights: ``(G, classes)``, of
    anchors in the loss. D, C: width and classes, made a power of two that tensor cores take.
    """
    group, rows = _place(size, ROWS)
    if _heaviest(weights, group, classes, C) == 0:
        return
    high, low = high + group * size * width, low + group * size * width
    members, sums = members + group * classes * size, sums + group * classes * size
    c = tl.arange(0, C)
    my_high, my_low = _vectors(high, low, rows, size, width, D)
    total = tl.zeros((ROWS, C), tl.float32)
    for start in range(0, size, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        their_high, their_low = _vectors(high, low, columns, size, width, D)
        one, two, three = _bits(_tile(my_high, my_low, their_high, their_low, rows, columns))
        member = _classes(members, columns, c, size, classes).to(tl.bfloat16)
        total += tl.dot(one, member, tl.dot(two, member, tl.dot(three, member)))
    tl.store(sums + rows[:, None] + c[None, :] * size, total, mask=(rows < size)[:, None] & (c < classes)[None, :])


@triton.jit
def slope(
    high, low, factors, shared, weights, total, size, width, classes,
    D: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add ``(E * W - A) X`` to ``total``, with W and A of ``_Tiles.add_slope``; a program does ``ROWS`` rows of a group.

    factors: members, ratios and members again, ``(G, 3 classes, size)``: W is a product of its last two parts, by rows, and
    its first two, by columns. shared: ``(G, classes, size)``. total: ``(G, size, width)``. The rest as above, but C of twice
    the classes.
    """
    group, rows = _place(size, ROWS)
    heaviest = _heaviest(weights, group, classes, C)
    if heaviest == 0:
        return
    scale = LARGEST / heaviest  # no entry of E * W - A exceeds twice the heaviest anchor
    high, low, total = high + group * size * width, low + group * size * width, total + group * size * width
    factors, shared = factors + group * 3 * classes * size, shared + group * classes * size
    c, d = tl.arange(0, C), tl.arange(0, D)
    my_high, my_low = _vectors(high, low, rows, size, width, D)
    my_one, my_two, my_three = _bits(_classes(factors + classes * size, rows, c, size, 2 * classes))
    share_one, share_two, share_three = _bits(_classes(shared, rows, c, size, classes))
    change = tl.zeros((ROWS, D), tl.float32)
    for start in range(0, size, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        their_high, their_low = _vectors(high, low, columns, size, width, D)
        e = _tile(my_high, my_low, their_high, their_low, rows, columns)
        one, two, three = _bits(tl.trans(_classes(factors, columns, c, size, 2 * classes)))
        w = tl.dot(my_one, two, tl.dot(my_three, one, tl.dot(my_one, three)))
        w = tl.dot(my_one, one, tl.dot(my_two, one, w))
        attraction = tl.dot(share_one, one, tl.dot(share_two, one, tl.dot(share_three, one)))
        w_high, w_low = _halves((e * w - 2 * attraction) * scale)
        change += tl.dot(w_high, their_high, tl.dot(w_high, their_low, tl.dot(w_low, their_high)))
    here = total + rows[:, None] * width + d[None, :]
    inside = (rows < size)[:, None] & (d < width)[None, :]
    tl.store(here, tl.load(here, mask=inside) + change / scale, mask=inside)


@triton.jit
def _place(size, ROWS: tl.constexpr):
    blocks = tl.cdiv(size, ROWS)
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * ROWS + tl.arange(0, ROWS)


@triton.jit
def _tile(my_high, my_low, their_high, their_low, rows, columns):
    theirs, rest = tl.trans(their_high), tl.trans(their_low)
    e = tl.exp(tl.dot(my_high, theirs, tl.dot(my_high, rest, tl.dot(my_low, theirs))))
    return tl.where(rows[:, None] == columns[None, :], 0.0, e)


@triton.jit
def _heaviest(weights, group, classes, C: tl.constexpr):
    c = tl.arange(0, C)
    return tl.max(tl.load(weights + group * classes + c, mask=c < classes, other=0.0))


@triton.jit
def _halves(x):
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _bits(x):
    one = x.to(tl.bfloat16)
    rest = x - one.to(tl.float32)
    two = rest.to(tl.bfloat16)
    return one, two, (rest - two.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _vectors(high, low, index, size, width, D: tl.constexpr):
    d = tl.arange(0, D)
    at, inside = index[:, None] * width + d[None, :], (index < size)[:, None] & (d < width)[None, :]
    return tl.load(high + at, mask=inside, other=0.0), tl.load(low + at, mask=inside, other=0.0)


@triton.jit
def _classes(table, index, c, size, classes):
    at, inside = index[:, None] + c[None, :] * size, (index < size)[:, None] & (c < classes)[None, :]
    return tl.load(table + at, mask=inside, other=0.0)
