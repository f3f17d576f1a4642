"""What operators do with prices."""

from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.prices import PriceList

MAX_MODEL_CHARACTERS = 128
# Ten thousand of the currency for a million tokens; sums of what costs more would not fit a database's integer.
MAX_MICROS_PER_MILLION = 10**10


class PriceStore(Protocol):
    """Where prices are kept. Every call may raise StorageUnavailable."""

    async def set_price(self, model: str, price: Price) -> None:
        """Sets the price of a model."""

    async def list_prices(self) -> PriceList:
        """Gives all prices."""
        ...

    async def delete_price(self, model: str) -> bool:
        """Deletes a price, and says whether there was one."""
        ...


class Prices:
    """Sets, lists and deletes prices."""

    __slots__ = ("_store",)

    def __init__(self, store: PriceStore) -> None:
        self._store = store

    async def set(self, model: str, price: Price) -> None:
        """Sets what tokens of a model cost, for calls that begin from now on.

        Raises:
            InvalidField: The model or an amount can't be used.
        """
        _check_model("price.model", model)
        for name, micros in (
            ("input_micros_per_million", price.input_micros),
            ("cached_input_micros_per_million", price.cached_input_micros),
            ("output_micros_per_million", price.output_micros),
        ):
            if not 0 <= micros <= MAX_MICROS_PER_MILLION:
                raise InvalidField(f"price.{name}", f"is {micros}; it must be 0 to {MAX_MICROS_PER_MILLION}.")
        if price.cached_input_micros > price.input_micros:
            raise InvalidField("price.cached_input_micros_per_million", "must not be above that of other input.")
        await self._store.set_price(model, price)

    async def list(self) -> PriceList:
        """Gives all prices, in the order of their models."""
        return await self._store.list_prices()

    async def delete(self, model: str) -> None:
        """Deletes a price, or raises ResourceNotFound."""
        _check_model("model", model)
        if not await self._store.delete_price(model):
            raise ResourceNotFound(f"The price of {model}")


def _check_model(field: str, model: str) -> None:
    if not 1 <= len(model) <= MAX_MODEL_CHARACTERS or not model.isprintable():
        raise InvalidField(field, f"must be a model's id of 1 to {MAX_MODEL_CHARACTERS} characters, or *.")
