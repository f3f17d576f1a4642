"""Adapters in the core: freed after their last request, and their prefixes with them."""

from pathlib import Path

import pytest

from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import AdapterFileError
from redoma_model.errors import AdapterNotFound
from tests.fakes.driven_core import HISTORY, DrivenCore
from tests.unit.model.conftest import LoadAdapter


def test_an_adapter_is_freed_when_its_last_request_ends(load_adapter: LoadAdapter) -> None:
    driven = DrivenCore(slots=1)
    adapter = load_adapter(driven, 1)
    freed: list[str] = []
    running, waiting = (driven.submit("go", output=5, adapter=adapter) for _ in range(2))
    driven.step()
    driven.core.unload_adapter(adapter.digest, lambda: freed.append("first"))
    driven.core.unload_adapter(adapter.digest, lambda: freed.append("second"))
    driven.run(lambda: running.ended)
    assert (freed, driven.backend.adapters) == ([], 1)
    driven.end_idle()
    assert waiting.text == "bcdef"
    assert (sorted(freed), driven.backend.adapters) == (["first", "second"], 0)


def test_unloading_what_is_not_loaded_is_done_at_once() -> None:
    freed: list[bool] = []
    DrivenCore().core.unload_adapter("sha256:none", lambda: freed.append(True))
    assert freed == [True]


def test_an_adapters_prefixes_go_with_it(load_adapter: LoadAdapter) -> None:
    driven = DrivenCore()
    adapter = load_adapter(driven, 1)
    driven.submit(HISTORY, adapter=adapter)
    driven.run()
    assert driven.core.snapshot().cached_cells > 0
    driven.core.unload_adapter(adapter.digest, lambda: None)
    assert driven.core.snapshot().cached_cells == 0
    late = driven.submit(HISTORY, adapter=adapter)
    assert isinstance(late.error, AdapterNotFound)
    assert late.output_tokens == 0
    driven.end_idle()


def test_a_broken_adapter_changes_nothing(tmp_path: Path) -> None:
    driven = DrivenCore()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(AdapterFileError):
        driven.core.load_adapter(LoadedAdapter("sha256:0", "a", "", "broken", 1.0), tmp_path / "broken.gguf")
    assert driven.core.snapshot().adapter_requests == {}
