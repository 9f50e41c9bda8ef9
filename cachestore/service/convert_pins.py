"""Pins on the wire: a page of them at a time."""

from collections.abc import Sequence

from cachestore.store.base import Pin
from cachestore.wire import store_pb2 as wire

PINS_PER_PAGE = 4096


def page(pins: Sequence[Pin], request: wire.ListPinsRequest) -> wire.ListPinsResponse:
    """Those of the pins, sorted by key, that come behind the cursor; an empty cursor answers that these are all."""
    behind = [pin for pin in pins if pin.key > request.cursor]
    shown = behind[: min(request.limit or PINS_PER_PAGE, PINS_PER_PAGE)]
    messages = [wire.ListPinsResponse.Pin(key=pin.key, ttl_ms=round(pin.ttl * 1000), bytes=pin.nbytes) for pin in shown]
    return wire.ListPinsResponse(pins=messages, cursor=shown[-1].key if len(shown) < len(behind) else b"")


def pins(message: wire.ListPinsResponse) -> list[Pin]:
    """The pins of one page."""
    return [Pin(pin.key, pin.ttl_ms / 1000, pin.bytes) for pin in message.pins]
