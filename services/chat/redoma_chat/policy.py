"""Who may call what of the chat service."""

from redoma_kit.policy import EDGE, TENANT, Policy, Rule

CONVERSATIONS = frozenset({"conversations"})
GENERATE = frozenset({"generate"})

CHAT_POLICY: Policy = {
    **{
        f"/redoma.chat.v1.ConversationService/{method}": Rule(peers=EDGE, all_scopes=CONVERSATIONS, max_s=30.0)
        for method in (
            "CreateConversation",
            "GetConversation",
            "ListConversations",
            "UpdateConversation",
            "DeleteConversation",
            "GetMessage",
            "ListMessages",
        )
    },
    # What conversations hold, for the rights of people: the tenant service asks, by its certificate.
    "/redoma.chat.v1.ContentService/ExportContent": Rule(peers=TENANT, identity=False),
    "/redoma.chat.v1.ContentService/EraseContent": Rule(peers=TENANT, identity=False),
    "/redoma.chat.v1.ChatService/SendMessage": Rule(peers=EDGE, all_scopes=GENERATE | CONVERSATIONS),
    "/redoma.chat.v1.ChatService/ContinueMessage": Rule(peers=EDGE, all_scopes=GENERATE | CONVERSATIONS),
    "/redoma.chat.v1.OpenAIService/CreateChatCompletion": Rule(peers=EDGE, all_scopes=GENERATE),
    "/redoma.chat.v1.OpenAIService/CreateEmbedding": Rule(peers=EDGE, all_scopes=GENERATE),
    "/redoma.chat.v1.OpenAIService/Ask": Rule(peers=EDGE, all_scopes=GENERATE),
    "/redoma.chat.v1.OpenAIService/ListModels": Rule(peers=EDGE, all_scopes=GENERATE, max_s=30.0),
    "/redoma.chat.v1.OpenAIService/GetModel": Rule(peers=EDGE, all_scopes=GENERATE, max_s=30.0),
}
