"""What a LoRA adapter is to the engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that a model's requests can use.

    Attributes:
        digest: Of its file, `sha256:` and hexadecimal digits; so for the base's.
        tenant: Whose it is; nobody else may use it.
        base_digest: Of the model it was trained on.
        name: What it is called.
        scale: What its weights are multiplied with.
        handle: The backend's; None until the engine has loaded it.
    """

    digest: str
    tenant: str
    base_digest: str
    name: str
    scale: float
    handle: object | None = None
