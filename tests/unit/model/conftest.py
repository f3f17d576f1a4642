"""What several tests of the engine's core load."""

from collections.abc import Callable
from pathlib import Path

import pytest

from redoma_model.engine.adapters import LoadedAdapter
from tests.fakes.driven_core import DrivenCore

LoadAdapter = Callable[[DrivenCore, int], LoadedAdapter]


@pytest.fixture
def load_adapter(tmp_path: Path) -> LoadAdapter:
    """Loads an adapter of tenant "a" that shifts the alphabet."""

    def load(driven: DrivenCore, shift: int) -> LoadedAdapter:
        path = tmp_path / f"{shift}.gguf"
        path.write_bytes(b"FAKE-ADAPTER %d" % shift)
        adapter = LoadedAdapter(f"sha256:{shift:064x}", "a", "", f"shift-{shift}", 1.0)
        return driven.core.load_adapter(adapter, path)

    return load
