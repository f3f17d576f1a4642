"""Who may call the model service."""

from redoma.model.v1 import model_pb2
from redoma_kit.policy import CHAT, Policy, Rule

# The identity was minted for the call that chat works on, not for this one.
_GENERATE = Rule(peers=CHAT, all_scopes=frozenset({"generate"}), bound_method=False)
_SERVICE = f"/{model_pb2.DESCRIPTOR.package}.ModelService"

MODEL_POLICY: Policy = {
    f"{_SERVICE}/Generate": _GENERATE,
    f"{_SERVICE}/CountTokens": _GENERATE,
    f"{_SERVICE}/ListModels": _GENERATE,
    f"{_SERVICE}/GetModel": _GENERATE,
}
