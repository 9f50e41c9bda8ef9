"""transformers: `generate` goes on from KV that anyone computed before.

    cache = PrefixCache(store, model)
    past = cache.load(**inputs)
    output = model.generate(**inputs, past_key_values=past, return_dict_in_generate=True)
    cache.save(output.sequences, output.past_key_values)

or all of it as `cached_generate(store, model, **inputs)`. Rows of a batch may be padded on the left. Layers with a
window, in chunks, and such as share another's KV are kept as they are; a layer of another kind is refused by name.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from cachestore.block import Half
from cachestore.deadline import Deadline
from cachestore.engine.layers import stored, text_config
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.rotary import longrope_switch
from cachestore.engine.store_jobs import PagePut
from cachestore.engine.weights import end_tokens
from cachestore.errors import CacheStoreError, ConfigError, InvalidArgument, UnsupportedModel
from cachestore.hashing import chain
from cachestore.integrations.generate_settings import check_settings
from cachestore.integrations.transformers_loaded import check_mode, check_state, state_of
from cachestore.integrations.transformers_naming import placeholders, spec_of_model
from cachestore.integrations.transformers_rows import Row, rows_of
from cachestore.metrics import Counters, Figure
from cachestore.store.base import Store

_log = logging.getLogger(__name__)
HOST = torch.device("cpu")
OLDEST = (5, 18)
"""Of transformers: caches of older ones cannot keep what a window has passed, or show it to the model."""


class PrefixCache:
    """The KV of `model`, a causal language model of transformers, in `store`.

    `revision` names the weights, unless they are those of a local directory, or of a commit in the hub's cache. It is
    asked for whenever the model is not as its files say, or is changed later; where it is given it has to change too.
    `timeout`, in seconds, bounds a load and a save. A store that fails is a miss, counted in `figures`.
    UnsupportedModel names the layer whose KV cannot be kept; ConfigError says what is missing, such as a newer
    transformers; InvalidArgument refuses prompts with images.
    """

    def __init__(
        self, store: Store, model: Any, *, revision: str = "", block_tokens: int = 64, timeout: float = 10.0
    ) -> None:
        if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST:
            raise ConfigError(f"transformers {transformers.__version__}: its caches forget; use 5.18 or newer")
        self._store = store
        self._model = model
        self._timeout = timeout
        self._counters = Counters()
        self._layers = [index for index, slot in enumerate(stored(model.config)) if slot is not None]
        self._named = state_of(model)
        self.spec = spec_of_model(model, revision, block_tokens, self._named)
        """What makes KV compatible with that of this model."""
        check_mode(model)
        self._placeholders = placeholders(model.config)
        self._switch = longrope_switch(text_config(model.config))

    def load(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> DynamicCache:
        """A cache for `generate` or the model, holding the KV of as many leading columns as the store has for all rows.

        `input_ids` and `attention_mask` are [rows, columns]; a mask is needed for more than one row. Its last column is
        always left for the model to compute. `get_seq_length()` of the answer says how many columns came.
        """
        self._check_model()
        return self._load(input_ids, attention_mask)

    def save(self, input_ids: Tensor, cache: DynamicCache, attention_mask: Tensor | None = None) -> int:
        """Puts every full block of `cache` that the store lacks; how many blocks.

        `input_ids` [rows, columns] are the tokens whose KV the cache holds: the prompt, or all that `generate` gave, of
        which the last may have none. The mask may be that of the prompt alone.
        """
        self._check_model()
        return self._save(input_ids, cache, attention_mask)

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **settings: Any) -> Any:
        """What `model.generate` gives for the same arguments, from the store as far as it goes, saved afterwards.

        InvalidArgument for what would make other KV than that of the tokens, or other rows than those of the batch.
        """
        check_settings(settings, self._model.generation_config)
        self._check_model()
        self._rows(input_ids, attention_mask)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        whole = settings.pop("return_dict_in_generate", False)
        # a kind of cache that the model's own settings name would be made beside this one
        settings["cache_implementation"] = None
        past = self._load(input_ids, mask)
        output = self._model.generate(
            input_ids, attention_mask=mask, past_key_values=past, return_dict_in_generate=True, **settings
        )
        self._save(output.sequences, output.past_key_values, self._spoken(output.sequences, mask))
        return output if whole else output.sequences

    def figures(self) -> list[Figure]:
        """load_tokens asked for, loaded_tokens that came, saved_blocks, and store_failures by operation and reason."""
        return list(self._counters.figures())

    def _load(self, input_ids: Tensor, attention_mask: Tensor | None) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        # without it layers with a window would forget what is to be saved
        cache.activate_past_recording()
        rows, columns = self._rows(input_ids, attention_mask), input_ids.shape[1]
        self._counters.add("load_tokens", sum(len(row.tokens) for row in rows))
        if self._beyond(rows):
            return cache
        deadline = Deadline.after(self._timeout)
        try:
            width = min(columns - 1, *(self._ready(row, deadline) for row in rows))
            found = [self._read(row, width, deadline) for row in rows]
        except CacheStoreError as error:
            self._failed("load", error)
            return cache
        came = [row.first + blocks * self.spec.block_tokens for row, (_, blocks) in zip(rows, found, strict=True)]
        width = min(width, *came)
        # where it ends within the padding of a row it would save nothing
        if width > min(row.first for row in rows):
            self._fill(cache, rows, [memory for memory, _ in found], width)
            self._counters.add("loaded_tokens", sum(max(0, width - row.first) for row in rows))
        return cache

    def _save(self, input_ids: Tensor, cache: DynamicCache, attention_mask: Tensor | None) -> int:
        held = min(int(cache.get_seq_length()), input_ids.shape[1])
        rows = self._rows(input_ids, attention_mask, held)
        if cache.layers and (kept := cache.layers[self._layers[0]].keys) is not None and len(kept) != len(rows):
            raise InvalidArgument(f"the cache holds {len(kept)} rows, but input_ids {len(rows)}: beams share no rows")
        if self._beyond(rows):
            return 0
        deadline = Deadline.after(self._timeout)
        put = 0
        try:
            for index, row in enumerate(rows):
                put += self._put(index, row, cache, deadline)
        except CacheStoreError as error:
            if isinstance(error, InvalidArgument | UnsupportedModel):
                raise
            self._failed("save", error)
        self._counters.add("saved_blocks", put)
        return put

    def _check_model(self) -> None:
        """ConfigError or InvalidArgument if the model would not compute what the spec names."""
        state = state_of(self._model)
        check_mode(self._model)
        check_state(state, self._named)

    def _rows(self, input_ids: Tensor, mask: Tensor | None, held: int | None = None) -> list[Row]:
        """The rows, of which the spec must be able to name the KV."""
        rows = rows_of(input_ids, mask, held)
        for index, row in enumerate(rows):
            if found := self._placeholders.intersection(row.tokens):
                raise InvalidArgument(
                    f"input_ids: token {min(found)} of row {index} stands for an image, sound or film, and keys do not "
                    "say which; call the model's own generate"
                )
        return rows

    def _beyond(self, rows: Sequence[Row]) -> bool:
        """Whether the model now uses rotary tables other than those the spec names: the longest row decides for all."""
        return bool(self._switch) and max(len(row.tokens) for row in rows) > self._switch

    def _ready(self, row: Row, deadline: Deadline) -> int:
        """The column at which what the store has of this row ends."""
        keys = chain(self.spec, row.tokens)
        ready = self._store.lookup(keys, timeout=_left(deadline)).ready if keys.keys else 0
        return row.first + ready * self.spec.block_tokens

    def _read(self, row: Row, width: int, deadline: Deadline) -> tuple[PageMemory, int]:
        """The blocks of this row that reach into its first `width` columns, and how many came."""
        blocks = -(-max(0, width - row.first) // self.spec.block_tokens)
        memory = PageMemory(self.spec, blocks, HOST)
        if not blocks:
            return memory, 0
        into = [memory.buffer(page) for page in range(blocks)]
        keys = chain(self.spec, row.tokens[: blocks * self.spec.block_tokens])
        with self._store.read(keys, into=into, timeout=_left(deadline)) as reading:
            return memory, sum(1 for _ in reading)

    def _fill(self, cache: DynamicCache, rows: Sequence[Row], found: Sequence[PageMemory], width: int) -> None:
        """Gives every layer its K and V of the first `width` columns; those of padding are zero, and masked."""
        device, dtype = self._model.device, getattr(torch, self.spec.dtype)
        for slot, layer in enumerate(self._layers):
            shape = self.spec.slots[slot]
            halves = []
            for half, dim in ((Half.K, shape.key_dim), (Half.V, shape.value_dim)):
                whole = torch.zeros(len(rows), shape.kv_heads, width, dim, dtype=dtype)
                for target, row, memory in zip(whole, rows, found, strict=True):
                    if row.first < width:
                        tokens = memory.half(slot, half).transpose(0, 1).flatten(1, 2)
                        target[:, row.first :] = tokens[:, : width - row.first]
                halves.append(whole.to(device))
            cache.update(*halves, layer)

    def _put(self, index: int, row: Row, cache: DynamicCache, deadline: Deadline) -> int:
        """Puts the full blocks of one row; how many of them were new."""
        size = self.spec.block_tokens
        keys = chain(self.spec, row.tokens)
        if not keys.keys:
            return 0
        first = self._store.lookup(keys, timeout=_left(deadline)).ready
        count = len(keys) - first
        if not count:
            return 0
        memory = PageMemory(self.spec, count, HOST)
        columns = slice(row.first + first * size, row.first + len(keys) * size)
        for slot, layer in enumerate(self._layers):
            held = cache.layers[layer]
            self._check(layer, held, slot, row.first + len(row.tokens))
            for half, states in ((Half.K, held.keys), (Half.V, held.values)):
                tokens = states[index, :, columns].unflatten(1, (count, size))
                memory.half(slot, half).copy_(tokens.detach().transpose(0, 1))
        pages = [memory.buffer(page) for page in range(count)]
        put = PagePut(self._store, self.spec, keys, first, pages, deadline).run()
        return sum(status == "stored" for status in put)

    def _check(self, layer: int, held: Any, slot: int, columns: int) -> None:
        """UnsupportedModel if a layer of the cache does not hold what the spec says."""
        shape = self.spec.slots[slot]
        if held.keys is None or held.keys.shape[-2] < columns:
            kept = 0 if held.keys is None else held.keys.shape[-2]
            raise UnsupportedModel(
                f"layer {layer} of the cache holds {kept} of {columns} columns, since its window forgets the rest; "
                "use the cache that load() gives"
            )
        made = held.keys.shape[1], held.keys.shape[3], held.values.shape[3], held.keys.dtype
        if made != (shape.kv_heads, shape.key_dim, shape.value_dim, getattr(torch, self.spec.dtype)):
            raise UnsupportedModel(
                f"layer {layer} of the cache holds K and V of another shape or type than the model's"
            )

    def _spoken(self, sequences: Tensor, mask: Tensor) -> Tensor:
        """The mask over `sequences`; what follows a row's end is padding."""
        ends = end_tokens(self._model)
        spoken = torch.zeros_like(sequences)
        spoken[:, : mask.shape[1]] = mask
        for row, tokens in enumerate(sequences[:, mask.shape[1] :].tolist()):
            last = next((at for at, token in enumerate(tokens, 1) if token in ends), len(tokens))
            spoken[row, mask.shape[1] : mask.shape[1] + last] = 1
        return spoken

    def _failed(self, operation: str, error: CacheStoreError) -> None:
        self._counters.add("store_failures", operation=operation, reason=error.reason)
        _log.warning("%s: the store could not go on: %s", operation, error)


def cached_generate(
    store: Store,
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    revision: str = "",
    **settings: Any,
) -> Any:
    """`model.generate` of the same arguments, from `store` as far as it goes, saved there afterwards.

    `revision` and errors as of `PrefixCache`, which you may keep instead for its figures.
    """
    return PrefixCache(store, model, revision=revision).generate(input_ids, attention_mask, **settings)


def _left(deadline: Deadline) -> float:
    return max(deadline.remaining(), 1e-3)
