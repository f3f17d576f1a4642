"""What tokens cost."""

from dataclasses import dataclass

from redoma_tenant.meter.counts import TokenCounts

NANOS_PER_MICRO = 1_000
# A price in millionths of the currency for a million tokens is this many times what one token costs in billionths.
MICROS_PER_MILLION = 1_000


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens of a model cost, in millionths of the currency for a million of them."""

    input_micros: int = 0
    cached_input_micros: int = 0
    output_micros: int = 0

    def cost_nanos(self, counts: TokenCounts) -> int:
        """Gives what tokens cost, in billionths of the currency, rounded up."""
        return -(-self._scaled(counts) // MICROS_PER_MILLION)

    def output_tokens_for(self, nanos: int, input_tokens: int) -> int | None:
        """Gives the most output tokens that cost at most `nanos` with so many input tokens; None is any number.

        Below 0 if the input alone costs more.
        """
        left = nanos * MICROS_PER_MILLION - input_tokens * self.input_micros
        if self.output_micros == 0:
            return None if left >= 0 else -1
        return left // self.output_micros

    def dearest(self, other: "Price") -> "Price":
        """Gives a price that no tokens cost more by, whichever of the two holds."""
        return Price(
            max(self.input_micros, other.input_micros),
            max(self.cached_input_micros, other.cached_input_micros),
            max(self.output_micros, other.output_micros),
        )

    def _scaled(self, counts: TokenCounts) -> int:
        return (
            (counts.input_tokens - counts.cached_input_tokens) * self.input_micros
            + counts.cached_input_tokens * self.cached_input_micros
            + counts.output_tokens * self.output_micros
        )


FREE = Price()


def nanos_of(micros: int) -> int:
    """Gives an amount in billionths."""
    return micros * NANOS_PER_MICRO


def micros_up(nanos: int) -> int:
    """Gives an amount in millionths, rounded up."""
    return -(-nanos // NANOS_PER_MICRO)


def micros_down(nanos: int) -> int:
    """Gives an amount in millionths, rounded down."""
    return nanos // NANOS_PER_MICRO
