"""The chat service: conversations that are kept, answers that stream into them, and the OpenAI façade."""
