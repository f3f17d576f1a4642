"""Who did what to what, from where, with which result: chains of entries that can't be changed unnoticed."""
