"""What comes of a transaction that failed."""

from enum import Enum, auto

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

# The statement or its values are at fault; stores expect some of these.
DEFECTS = (DataError, IntegrityError, ProgrammingError)


class Verdict(Enum):
    """What a failed transaction's error comes from."""

    # The statement or its values: the error is the store's.
    DEFECT = auto()
    # Another transaction was in the way, or the connection broke. Nothing was committed, and another attempt may do.
    PASSING = auto()
    # The database can't be used, or nobody knows whether it committed.
    LASTING = auto()
