"""What calls use: held before they begin, told while they run, settled when they end (see docs/adr/0019)."""
