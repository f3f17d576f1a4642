"""Join tokens as a person's own machine shows them: where they lead. What lets a site in stays unread."""

from redoma_cli.errors import CliError
from redoma_kit.join_token import NotAToken, TokenDamaged, parse_token


def token_address(token: str) -> str:
    """Gives host:port that a join token leads to.

    Raises:
        CliError: It is no join token, or not whole.
    """
    try:
        return parse_token(token).address
    except (NotAToken, TokenDamaged) as error:
        raise CliError(str(error)) from None
