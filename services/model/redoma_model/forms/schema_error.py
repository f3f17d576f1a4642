"""Why a schema is refused: where in it, and what is wrong there."""

from collections.abc import Mapping, Sequence

from redoma_model.engine.backend import GrammarError

Path = tuple[str | int, ...]


class SchemaRefused(GrammarError):
    """A JSON Schema can't be followed; the message is one sentence.

    Attributes:
        path: Of what can't be followed, from the root of the document; a reference is shown by what it points to.
        problem: The message without the path.
    """

    def __init__(self, path: Path, problem: str) -> None:
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        super().__init__(f"The schema at ${shown:.200} {problem}.")
        self.path = path
        self.problem = problem


class SchemaAllowsNothing(SchemaRefused):
    """No value fits the schema, which is no fault where another one may take its place."""

    def __init__(self, path: Path, problem: str = "allows nothing") -> None:
        super().__init__(path, problem)


def mapping(value: object, path: Path) -> Mapping[str, object]:
    """Gives an object as it is; raises SchemaRefused for anything else."""
    if not isinstance(value, dict):
        raise SchemaRefused(path, "is not an object")
    return value


def sequence(value: object, path: Path) -> Sequence[object]:
    """Gives a list as it is; raises SchemaRefused for anything else."""
    if not isinstance(value, list):
        raise SchemaRefused(path, "is not a list")
    return value
