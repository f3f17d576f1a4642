"""The benches of the suite, in the order in which they run and are published."""

# The module of each, which has a coroutine function `run(Plan) -> Findings`.
BENCHES = {name: name for name in ("throughput", "flood", "turns", "long_prompt", "adapters", "lookup", "memory")}
BENCHES |= {"front_end": "ceiling"}
