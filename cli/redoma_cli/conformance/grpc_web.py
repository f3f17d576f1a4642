"""The frames of grpc-web, which carries gRPC over HTTP/1.1 with the trailers in the body."""

import base64
import struct
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from redoma_cli.conformance.answer import OK, Answer, grpc_answer, http_answer
from redoma_cli.conformance.http_client import HttpAnswer

GRPC_WEB = "application/grpc-web+proto"
GRPC_WEB_TEXT = "application/grpc-web-text"
TRAILERS = 0x80
CODE_NAMES = {str(code.value[0]): code.name for code in grpc.StatusCode}


def write_grpc_web(request: Message, kind: str) -> bytes:
    """Gives the body of a request."""
    content = request.SerializeToString()
    frame = struct.pack(">BI", 0, len(content)) + content
    return base64.b64encode(frame) if kind == GRPC_WEB_TEXT else frame


def read_grpc_web(answer: HttpAnswer) -> Answer:
    """Says how a call ended; one without a gRPC status is read as HTTP's."""
    bodies, headers = [], dict(answer.headers)
    for flag, content in _frames(_decoded(answer)):
        if flag & TRAILERS:
            for line in content.decode("latin-1").splitlines():
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
        else:
            bodies.append(content)
    status = headers.get("grpc-status")
    if status is None:
        return http_answer(answer)
    code = CODE_NAMES.get(status, f"STATUS_{status}")
    return grpc_answer(code or OK, unquote(headers.get("grpc-message", "")), bodies, list(headers.items()))


def _decoded(answer: HttpAnswer) -> bytes:
    if "grpc-web-text" not in answer.header("content-type"):
        return answer.body
    # Each part is padded by itself.
    quads = (answer.body[at : at + 4] for at in range(0, len(answer.body), 4))
    try:
        return b"".join(base64.b64decode(quad) for quad in quads)
    except ValueError:
        return b""


def _frames(content: bytes) -> list[tuple[int, bytes]]:
    frames, at = [], 0
    while at + 5 <= len(content):
        flag, length = struct.unpack_from(">BI", content, at)
        frames.append((flag, content[at + 5 : at + 5 + length]))
        at += 5 + length
    return frames
