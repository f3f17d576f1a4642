"""The rights of the people whose data is held: to have it, and to have it erased."""
