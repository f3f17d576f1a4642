"""Content checks on the wire."""

from redoma.tenant.v1 import tenant_pb2
from redoma_kit.errors import InvalidField
from redoma_tenant.content_checks import BlockedAction, BlockedPattern, ContentChecks

ACTIONS = {
    BlockedAction.REFUSE: tenant_pb2.BlockedPattern.ACTION_REFUSE,
    BlockedAction.MASK: tenant_pb2.BlockedPattern.ACTION_MASK,
}
ACTIONS_IN = {number: action for action, number in ACTIONS.items()}


def checks_in(field: str, message: tenant_pb2.ContentChecks) -> ContentChecks:
    """Gives the checks in a request's field.

    Raises:
        InvalidField: A pattern has no action that there is.
    """
    patterns = []
    for index, pattern in enumerate(message.blocked_patterns):
        action = ACTIONS_IN.get(pattern.action)
        if action is None:
            raise InvalidField(f"{field}.blocked_patterns[{index}].action", "must be ACTION_REFUSE or ACTION_MASK.")
        patterns.append(BlockedPattern(pattern.text, action))
    return ContentChecks(message.max_input_tokens, tuple(patterns))


def checks_message(checks: ContentChecks) -> tenant_pb2.ContentChecks:
    """Gives checks as protobuf has them."""
    return tenant_pb2.ContentChecks(
        max_input_tokens=checks.max_input_tokens,
        blocked_patterns=[
            tenant_pb2.BlockedPattern(text=pattern.text, action=ACTIONS[pattern.action])
            for pattern in checks.blocked_patterns
        ],
    )
