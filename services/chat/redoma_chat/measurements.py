"""What the chat service counts of its answers. Labels hold the tenant at most, never content."""

from redoma_chat.inference import Usage
from redoma_kit.telemetry import Telemetry

FIRST_TOKEN_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class AnswerMeasurements:
    """Time to the first token, tokens by direction, and how many answers stream now."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._first_token = telemetry.histogram(
            "redoma_chat_first_token_seconds", "From the request to the answer's first text.", (), FIRST_TOKEN_BUCKETS_S
        )
        self._tokens = telemetry.counter("redoma_chat_tokens", "Tokens computed.", ("tenant", "direction"))
        self._running = telemetry.gauge("redoma_chat_answers_running", "Answers that stream now.")

    def answer_began(self) -> None:
        """Notes that an answer begins."""
        self._running.inc()

    def first_token(self, seconds: float) -> None:
        """Notes how long the first text took."""
        self._first_token.observe(seconds)

    def answer_ended(self, tenant: str, usage: Usage) -> None:
        """Notes that an answer ended, and its tokens."""
        self._running.dec()
        self._tokens.labels(tenant, "input").inc(usage.input_tokens)
        self._tokens.labels(tenant, "cached_input").inc(usage.cached_input_tokens)
        self._tokens.labels(tenant, "output").inc(usage.output_tokens)

    def embedded(self, tenant: str, usage: Usage) -> None:
        """Notes the tokens of what was embedded."""
        self._tokens.labels(tenant, "embedding_input").inc(usage.input_tokens)


class ContentMeasurements:
    """What of conversations was deleted by their age."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._expired = telemetry.counter(
            "redoma_chat_conversations_expired", "Conversations deleted, older than their tenant keeps them."
        )

    def expired(self, conversations: int) -> None:
        """Notes how many."""
        self._expired.inc(conversations)
