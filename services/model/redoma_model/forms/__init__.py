"""What an answer may be held to: JSON Schemas and grammars, read, bounded and translated before llama.cpp sees them."""
