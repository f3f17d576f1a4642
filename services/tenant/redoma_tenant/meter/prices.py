"""Which price a call has, before and after it is known which model answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

from redoma_tenant.meter.money import FREE, Price

EVERY_OTHER = "*"


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices by the model's id. EVERY_OTHER is of models without a price of their own; without it those are free."""

    prices: Mapping[str, Price] = field(default_factory=dict)

    def at_most(self, model: str) -> Price:
        """Gives a price that a call for `model` costs no more by.

        A name without a price of its own may be an alias, and an empty one is the default model: whichever model then
        answers, the dearest price is no lower than its.
        """
        own = self.prices.get(model)
        return own if own is not None else reduce(Price.dearest, self.prices.values(), FREE)

    def of_answer(self, asked: str, answered: str, held: Price) -> Price:
        """Gives the price of a call for `asked` that was held at `held`, once it is known which model answered."""
        if asked in self.prices or not answered:
            return held
        return self.prices.get(answered) or self.prices.get(EVERY_OTHER) or FREE
