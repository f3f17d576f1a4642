"""What a person is told when a command fails: one sentence, and what mends it."""

import errno
from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2, status_pb2

FAILED = 1
STATUS_DETAILS_KEY = "grpc-status-details-bin"

MENDS_BY_REASON: Mapping[str, str] = {
    "CREDENTIAL_INVALID": "Pass a key with --key or REDOMA_API_KEY; `redoma up` prints the demo keys.",
    "CREDENTIAL_EXPIRED": "Make a new key: redoma key create TENANT",
    "CREDENTIAL_REVOKED": "Make a new key: redoma key create TENANT",
    "SCOPE_MISSING": "Use a key that has this scope; make one with: redoma key create TENANT --scope SCOPE",
    "METHOD_DENIED": "Use a key of the kind this command needs: a tenant's key to talk, the admin key to administer.",
    "TENANT_MISMATCH": "Use a key of the tenant that owns it.",
    "TENANT_DISABLED": "Enable it with the admin key: redoma tenant enable TENANT",
    "RESOURCE_NOT_FOUND": "Check the name; `redoma tenant list` and `redoma key list TENANT` show what exists.",
    "RESOURCE_EXISTS": "Choose another id, or use what exists.",
    "MODEL_NOT_FOUND": "Leave the model out to use the one served here.",
    "ENGINE_STALLED": "Wait for the step to end; if it does not, the service is started again by itself.",
    "MODEL_FILE_INVALID": "Name a GGUF file by its path in the model folder, $REDOMA_HOME/models on this machine.",
    "MEMORY_INSUFFICIENT": "Unload a model with `redoma engine unload`, or load with fewer --kv-cells or --slots.",
    "ADAPTER_NOT_FOUND": "`redoma engine adapter list` shows what is loaded; `redoma engine adapter load` loads more.",
    "ADAPTER_DENIED": "Use a key of the tenant that the adapter's manifest names.",
    "ADAPTER_INCOMPATIBLE": "Mend the adapter's manifest or its file, or name its base model with --model.",
    "STATE_CONFLICT": "`redoma tenant get`, `redoma key list` and `redoma user list` show the state of each.",
    "ETAG_MISMATCH": "Somebody else changed it; look at it again, then repeat the change with its etag now.",
    "RESOURCE_IN_USE": "Take it from what uses it first, or leave it.",
    "SOURCE_DENIED": "Call from a network that the key names; change them with: redoma key update KEY --cidr NETWORK",
    "SIGN_IN_SLOWED": "Wait as long as told, then try again with a key that works; check --key and REDOMA_API_KEY.",
    "IDENTITY_PROVIDER_UNAVAILABLE": "Check the issuer's URL and that this site reaches it, or call with an API key.",
    "CONTENT_STORAGE_OFF": "Use `redoma ask`, which keeps nothing, or let the tenant keep conversations:"
    " redoma tenant update TENANT --content-storage public",
    "QUOTA_EXCEEDED": "Wait until it is free again, or have the limit raised; `redoma quota show` shows them.",
    "QUOTA_UNAVAILABLE": "Try again in a moment; `redoma status` shows whether every process answers.",
    "CONTENT_UNREADABLE": "Its key is gone or it was changed by others; `redoma logs chat` tells which message.",
    "MODEL_UNREACHABLE": "It is restarted by itself, so try again in a moment; `redoma status` shows it.",
    "MODEL_LOADING": "Try again in a moment; `redoma status` shows when it is ready.",
    "QUEUE_FULL": "Many requests are waiting; try again in a moment.",
    "DEADLINE_UNREACHABLE": "Many requests are waiting; try again in a moment.",
    "MODEL_NOT_PROVISIONED": "Try again when the tenant's own model is ready; `redoma status` shows what runs.",
    "MODEL_DEDICATED": "Use a key of the tenant that this model serves.",
    "TENANT_PURGED": "Try again.",
    "PROMPT_TOO_LONG": "Shorten the text or start a new conversation.",
    "STORAGE_UNAVAILABLE": "See `redoma doctor` and `redoma logs`.",
    "SHUTTING_DOWN": "Start it again with: redoma up",
    "GENERATION_FAILED": "Try again; `redoma logs model` has the cause.",
    "INTERNAL": "`redoma logs` has the cause under this request id.",
}

# Of operators' commands, where a reason calls for something else than in a chat.
ENGINE_MENDS: Mapping[str, str] = {
    "STATE_CONFLICT": "`redoma engine models` shows the state of each model.",
    "INVALID_FIELD": "Files are named by their path inside the model folder or the adapter folder of the service.",
    "MODEL_NOT_FOUND": "`redoma engine models` shows the models that are loaded; `redoma engine load` loads more.",
    "RESOURCE_NOT_FOUND": "`redoma engine models` shows the aliases there are.",
    "RESOURCE_EXISTS": "`redoma engine models` shows what has the name; choose another with --id.",
    "ADAPTER_NOT_FOUND": "`redoma engine adapter list` shows what is loaded; manifests are in the adapter folder,"
    " $REDOMA_HOME/adapters on this machine.",
}

# Of the commands for the network.
VAN_MENDS: Mapping[str, str] = {
    "STATE_CONFLICT": "`redoma van sites` shows each state; a revoked site is let in anew after van delete.",
    "RESOURCE_EXISTS": "It has joined. To let it join anew: redoma van grant --site NAME --rejoin",
    "RESOURCE_NOT_FOUND": "`redoma van sites`, `redoma van grants` and `redoma operation list` show what exists.",
    "INVALID_FIELD": "Sites are named with a-z, 0-9 and hyphens, such as hospital-a; --ttl is from 1m to 7d.",
    "SCOPE_MISSING": "Use the admin key: --key or REDOMA_API_KEY.",
    "SITE_UNREACHABLE": "`redoma van status` says why; on the site's machine: redoma doctor",
}

MENDS_BY_CODE: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "See `redoma status`; start the site with: redoma up",
    grpc.StatusCode.UNAUTHENTICATED: MENDS_BY_REASON["CREDENTIAL_INVALID"],
    grpc.StatusCode.DEADLINE_EXCEEDED: "Try again; `redoma status` shows whether every process answers.",
    grpc.StatusCode.UNIMPLEMENTED: "The edge does not offer this; check --edge and the versions of both sides.",
}


class CliError(Exception):
    """A command can't go on.

    Attributes:
        message: What is wrong, one sentence.
        mend: What the person can do about it, one sentence or a command.
        exit_code: What the program returns to the shell.
    """

    def __init__(self, message: str, mend: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.exit_code = exit_code


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """Gives the ErrorInfo in a failed call's status, if it carries one that can be read."""
    if not isinstance(error, grpc.Call):
        return None
    for key, value in error.trailing_metadata() or ():
        if key != STATUS_DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            details = status_pb2.Status.FromString(value).details
        except ValueError:
            return None
        for detail in details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return info
    return None


def error_from_os(error: OSError) -> CliError:
    """Turns a failure of the machine into what a person is told."""
    where = f" ({error.filename})" if error.filename else ""
    mend = "`redoma doctor` looks for the cause."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        mend = "Free some space, or set REDOMA_HOME to a directory on another disk."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        mend = "Set REDOMA_HOME to a directory of your own."
    return CliError(f"{error.strerror or error}{where}.", mend)


def error_from_rpc(error: grpc.RpcError, edge: str, mends: Mapping[str, str] | None = None) -> CliError:
    """Turns a failed call into what a person is told; `mends` are the command's own, by reason."""
    if not isinstance(error, grpc.Call):
        return CliError(str(error))
    code = error.code()
    info = error_info(error)
    details = (error.details() or "").strip()
    if info is not None:
        message = details or info.reason
        if info.metadata.get("request_id"):
            message = f"{message} (request {info.metadata['request_id']})"
        mend = {**MENDS_BY_REASON, **(mends or {})}.get(info.reason, MENDS_BY_CODE.get(code, ""))
        return CliError(message, mend)
    if code is grpc.StatusCode.UNAVAILABLE and "upstream" in details:
        return CliError("The service behind the edge does not answer.", MENDS_BY_CODE[code])
    if code is grpc.StatusCode.UNAVAILABLE and ("connect" in details.lower() or not details):
        return CliError(f"No edge answers at {edge}.", "Start it with `redoma up`, or name another with --edge.")
    return CliError(details or f"The call failed with {code.name}.", MENDS_BY_CODE.get(code, ""))
