"""llama.cpp as a backend: the only package that touches llama_cpp.

It uses the C functions directly. Importing it brings llama.cpp into the process.
"""

from redoma_model.engine.llama.backend import LlamaBackend
from redoma_model.engine.llama.loader import LlamaLoader

__all__ = ["LlamaBackend", "LlamaLoader"]
