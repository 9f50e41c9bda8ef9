"""Attention over pages, in the form transformers gives to attention functions of one's own.

No mask function is registered beside it: transformers then builds no mask at all, and the batch brings its own. New K
and V go into the pages first. Then kernels attend to them there, where `PageMemory.kernels` says so and they know how:
not to sinks, nor in chunks. Else each group of rows gathers whole blocks of what it sees and attends in torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from cachestore.block import Half
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.paged_attention import Tables, attend_in_place, served
from cachestore.engine.ragged import Batch, Group, Reach, Scope
from cachestore.errors import Mismatch, UnsupportedModel
from cachestore_kernels.paged import gather

ATTENTION = "cachestore_paged"
"""The name under which transformers knows `attend`."""

OnSlot = Callable[[int], None]


@dataclass(frozen=True)
class Layer:
    """Where a layer's KV is: its slot, and whether it writes it or uses what an earlier layer wrote."""

    slot: int
    writes: bool


@dataclass(frozen=True)
class Step:
    """What the attention of one step needs beside its queries; it travels through the model as `paged`.

    `on_slot` is told of each slot once its KV of this step is in the pages.
    """

    memory: PageMemory
    layers: tuple[Layer, ...]
    batch: Batch
    on_slot: OnSlot | None = None

    @cached_property
    def tables(self) -> Tables:
        """The same for all layers, where kernels attend."""
        return Tables.of(self.batch, self.memory)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    paged: Step | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of the packed `query` [1, heads, tokens, dim]; `key` and `value` [1, kv_heads, tokens, dim] are new.

    `softcap` bounds scores as in Gemma 2 (arXiv 2408.00118, 2.2); `s_aux` are attention sinks, a score for nothing by
    head [heads]. The result is [1, tokens, heads, value_dim].
    """
    index: Any = module.layer_idx
    if paged is None:
        raise UnsupportedModel(f"layer {index} does not hand its arguments on to the attention function")
    if position_bias is not None:
        raise UnsupportedModel(f"layer {index} adds a bias by position to its scores, which pages do not carry")
    layer, memory = paged.layers[index], paged.memory
    slot = memory.spec.slots[layer.slot]
    reach = Reach.of(slot)
    if sliding_window not in (None, slot.window):
        raise UnsupportedModel(f"layer {index} attends {sliding_window} tokens back, its configuration says {reach}")
    if layer.writes:
        _write(paged, layer.slot, key, value)
        if paged.on_slot is not None:
            paged.on_slot(layer.slot)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if memory.kernels is not None and s_aux is None and served(slot):
        return attend_in_place(memory, paged.tables, layer.slot, query, scale, softcap), None
    plain = softcap is None and s_aux is None
    parts = []
    for group in paged.batch.groups:
        queries, scope = query[:, :, group.tokens], group.scope(reach)
        if scope.fresh and plain:
            keys, values = key[:, :, group.tokens], value[:, :, group.tokens]
            seen = functional.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=scale, enable_gqa=keys.shape[1] != queries.shape[1]
            ).transpose(1, 2)
        else:
            keys, values = _gather(memory, layer.slot, scope)
            seen = _seen(group, queries, keys, values, scope.mask, scale, softcap, s_aux)
        parts.append(seen)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1), None


AttentionInterface.register(ATTENTION, attend)


def _write(paged: Step, slot: int, key: Tensor, value: Tensor) -> None:
    """Puts the KV of the batch's tokens in their pages."""
    which, pages, places = paged.batch.written
    memory, shape = paged.memory, paged.memory.spec.slots[slot]
    for half, new, dim in ((Half.K, key, shape.key_dim), (Half.V, value, shape.value_dim)):
        if (new.shape[1], new.shape[3], new.dtype) != (shape.kv_heads, dim, memory.dtype):
            raise Mismatch(
                f"slot {slot}: {half.name} is {new.shape[1], new.shape[3]} {new.dtype}, but its pages are "
                f"{shape.kv_heads, dim} {memory.dtype}"
            )
    views = memory.heads(slot)
    fresh = (key[0], value[0]) if len(views) == 2 else (torch.cat((key[0], value[0])),)
    for held, heads in zip(views, fresh, strict=True):
        rows = heads.transpose(0, 1)
        held[pages, :, places] = rows if which is None else rows[which]


def _gather(memory: PageMemory, slot: int, scope: Scope) -> tuple[Tensor, Tensor]:
    """K and V of all that the scope sees: [sequences, kv_heads, keys, dim]."""
    if memory.kernels is not None and len(memory.places(slot)) == 1:
        halves = [memory.half(slot, Half.K)], [memory.half(slot, Half.V)]
        blocks = gather(*halves, scope.table, method=memory.kernels)[:, 0, :, :, scope.low : scope.high]
        return blocks[:, 0], blocks[:, 1]
    found = []
    for place in memory.places(slot):
        rows = memory.gather(place, scope.index(place, memory.page_rows))
        whole = rows.view(scope.table.shape[0], place.heads, -1, place.dim)
        found.append(whole[:, :, scope.low : scope.high])
    keys, values = found if len(found) == 2 else found[0].chunk(2, 1)
    return keys, values


def _seen(
    group: Group,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What the group's queries [1, heads, tokens, dim] see: [1, tokens, heads, value_dim]."""
    count, kv_heads = keys.shape[:2]
    heads, tokens = query.shape[1:3]
    share = heads // kv_heads
    if softcap is not None or sinks is not None:
        # [sequences, kv_heads, share, queries, dim]
        if count == tokens:
            five = query[0].transpose(0, 1).reshape(tokens, kv_heads, share, 1, -1)
        else:
            five = query.reshape(1, kv_heads, share, tokens, -1)
        seen = _scored(five, keys, values, mask, scale, softcap, sinks)
        return seen.permute(0, 3, 1, 2, 4).reshape(1, tokens, heads, -1)
    if len(group.rows[0].tokens) == 1:
        # the query heads that share a KV head stand as its queries, so that no KV head is repeated
        queries = query[0].transpose(0, 1).reshape(tokens, kv_heads, share, -1)
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
        return seen.reshape(1, tokens, heads, -1)
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scale, enable_gqa=share != 1
    ).transpose(1, 2)


def _scored(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention by its formula, for what fused attention leaves out; `query` and result are 5-dimensional.

    [sequences, kv_heads, share, queries, dim]
    """
    count, kv_heads, share, queries, _ = query.shape
    scores = query.flatten(2, 3) @ keys.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(count, kv_heads, share, queries, -1)
    if mask is not None:
        scores = scores + mask[:, :, None]
    if sinks is not None:
        nothing = sinks.view(1, kv_heads, share, 1, 1).expand(count, -1, -1, queries, 1)
        scores = torch.cat((scores, nothing.to(scores.dtype)), -1)
    chances = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    if sinks is not None:
        chances = chances[..., :-1]
    return (chances.flatten(2, 3) @ values).view(count, kv_heads, share, queries, -1)
