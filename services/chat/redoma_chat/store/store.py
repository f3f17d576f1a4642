"""All that the service keeps of conversations, in one."""

from redoma_chat.store.answers import SqlAnswers
from redoma_chat.store.content import SqlContent
from redoma_chat.store.messages import SqlMessages
from redoma_chat.store.search import SqlSearch


class SqlStore(SqlSearch, SqlMessages, SqlAnswers, SqlContent):
    """Conversations, messages, answers, and content as a whole."""
