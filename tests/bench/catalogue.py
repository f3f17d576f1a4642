"""The benches of the suite, in the order in which they run and are published."""

from pathlib import Path

MODEL = Path(".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf")
# The module of each, which has a coroutine function `run(Plan) -> Findings`.
BENCHES = {name: name for name in ("throughput", "flood", "turns", "long_prompt", "adapters", "lookup", "memory")}
BENCHES |= {"front_end": "ceiling"}
