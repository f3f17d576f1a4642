"""How use is held, counted and booked. All but `meter.py` is arithmetic."""
