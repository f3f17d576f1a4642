"""Prices in SQL."""

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from redoma_kit.database import PLATFORM, Database
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.prices import PriceList
from redoma_tenant.store.schema import PRICES
from redoma_tenant.store.upsert import upsert

COLUMNS = PRICES.c


async def read_prices(session: AsyncSession) -> PriceList:
    """Gives all prices; there are as many as models."""
    rows = await session.execute(select(PRICES).order_by(COLUMNS.model))
    return PriceList({model: Price(*micros) for model, *micros in rows})


class SqlPriceStore:
    """Keeps prices in a database."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set_price(self, model: str, price: Price) -> None:
        """Sets the price of a model."""
        values = {
            "model": model,
            "input_micros_per_million": price.input_micros,
            "cached_input_micros_per_million": price.cached_input_micros,
            "output_micros_per_million": price.output_micros,
        }

        async def work(session: AsyncSession) -> None:
            names = values.keys() - {"model"}
            statement = upsert(session, PRICES, lambda new: {name: new[name] for name in names})
            await session.execute(statement, [values])

        await self._database.run(PLATFORM, work)

    async def list_prices(self) -> PriceList:
        """Gives all prices."""
        return await self._database.run(PLATFORM, read_prices)

    async def delete_price(self, model: str) -> bool:
        """Deletes a price, and says whether there was one."""

        async def work(session: AsyncSession) -> bool:
            gone = await session.execute(delete(PRICES).where(COLUMNS.model == model).returning(COLUMNS.model))
            return gone.one_or_none() is not None

        return await self._database.run(PLATFORM, work)
