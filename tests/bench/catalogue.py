"""The benches of the suite, in the order in which they run and are published."""

from pathlib import Path

MODEL = Path(".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf")
# Each is a module beside this one, with a coroutine function `run(Plan) -> Findings`.
BENCHES = (
    "throughput",
    "flood",
    "turns",
    "long_prompt",
    "adapters",
    "lookup",
    "memory",
    "front_end",
    "authorization",
    "van",
    "recovery",
    "reconciliation",
    "push",
)
