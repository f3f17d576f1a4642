"""Who may call the model service."""

from redoma_kit.identity import PLATFORM_ADMIN
from redoma_kit.policy import CHAT, EDGE, TENANT, Policy, Rule

CALL_MAX_S = 30.0
OPERATOR = frozenset({PLATFORM_ADMIN})
# The identity was minted for the call that chat works on, not for this one.
_GENERATE = Rule(peers=CHAT, all_scopes=frozenset({"generate"}), bound_method=False)

MODEL_POLICY: Policy = {
    **{
        f"/redoma.model.v1.ModelService/{method}": _GENERATE
        for method in ("Generate", "GenerateGranted", "CountTokens", "Embed", "ListModels", "GetModel")
    },
    **{
        f"/redoma.model.v1.EngineService/{method}": Rule(peers=EDGE, all_scopes=OPERATOR, max_s=CALL_MAX_S)
        for method in (
            "GetEngineState",
            "SetModelAlias",
            "DeleteModelAlias",
        )
    },
    # The tenant service corrects what it booked, and erases a tenant. It signs its own identity for that.
    **{
        f"/redoma.model.v1.EngineService/{method}": Rule(peers=EDGE | TENANT, all_scopes=OPERATOR, max_s=CALL_MAX_S)
        for method in ("PurgeTenant", "ListUsageRecords")
    },
    # They last as long as what they wait for: a reader, a file, requests that run.
    **{
        f"/redoma.model.v1.EngineService/{method}": Rule(peers=EDGE, all_scopes=OPERATOR)
        for method in ("WatchEngine", "LoadModel", "UnloadModel", "LoadAdapter", "UnloadAdapter")
    },
}
