"""Endpoints of the chat completions protocol: a fake that does what the test says, and llama.cpp's own server
with a model made here.

The fake holds every request against the types of the official library, which are generated from OpenAI's
published OpenAPI document, and refuses what they do not have.
"""

import asyncio
import json
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tests.service.agents.webhook_server import EVENTS, Behaviour, Connection, Request, Server, answer, head

for _type in (CompletionCreateParamsStreaming, *get_args(ChatCompletionMessageParam)):
    _type.__pydantic_config__ = ConfigDict(extra="forbid")
_BODY: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)
DONE = b"data: [DONE]\n\n"


class Endpoint(Server):
    """Answers valid requests as it is told, and others with a 400."""

    def __init__(self, *behaviours: Behaviour, **options: Any) -> None:
        super().__init__(*map(_checked, behaviours), **options)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


def problem(request: Request) -> str | None:
    """What is wrong with a request; None when it is valid."""
    if (request.method, request.path) != ("POST", "/v1/chat/completions"):
        return f"there is no {request.method} {request.path}"
    if (
        not request.headers.get("authorization", "").startswith("Bearer ")
        or request.headers.get("content-type") != "application/json"
    ):
        return "a header is missing"
    try:
        body = _BODY.validate_json(request.body)
        # Checked only as they are taken.
        if not list(body["messages"]):
            return "messages is empty"
    except ValidationError as error:
        return str(error)
    return None


def _checked(behaviour: Behaviour) -> Behaviour:
    async def behave(connection: Connection) -> None:
        why = problem(connection.request)
        await (error(400, why) if why else behaviour)(connection)

    return behave


def error(status: int, message: str = "it is so", **headers: str) -> Behaviour:
    """An error, in OpenAI's format."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(failure(message), status, headers=named)


def failure(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


def part(delta: dict[str, Any] | None, finish_reason: str | None = None, **fields: Any) -> bytes:
    """An event of a stream; without a delta it has no choices, as the last one with the usage."""
    choices = (
        []
        if delta is None
        else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
    )
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_769_850_300,
        "model": "m",
        "choices": choices,
        **fields,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


ROLE = part({"role": "assistant", "content": "", "refusal": None})
STOP = part({}, "stop")
USAGE = part(None, usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})


def completion(*pieces: str, pace: Callable[[], object] | None = None) -> Behaviour:
    """A completion in these pieces. Each is sent when `pace` has returned for the one before."""

    async def behave(connection: Connection) -> None:
        await connection.send(head(content_type=EVENTS) + ROLE)
        for piece in pieces:
            await connection.send(part({"content": piece}))
            if pace:
                await asyncio.to_thread(pace)
        await connection.send(STOP + USAGE + DONE)

    return behave


@contextmanager
def llama(directory: Path, context: int = 1024) -> Iterator[str]:
    """A server of llama.cpp with a model of random numbers; yields its base URL."""
    import xllamacpp

    write_model(directory / "random.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(directory / "random.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = context, 1, -1
    # One thread, because those of a machine that is busy wait for each other.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


def write_model(path: Path) -> None:
    """A language model of one layer with random weights, which reads bytes and writes printable ones, in the
    format GGUF.
    """
    width, words = 32, ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.context_length": 4096,
        "llama.embedding_length": width,
        "llama.block_count": 1,
        "llama.feed_forward_length": width,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * len(words),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256,
        "tokenizer.chat_template": template,
    }
    square = dict.fromkeys(
        ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), (width, width)
    )
    layer = {
        f"blk.0.{name}.weight": shape
        for name, shape in {"attn_norm": (width,), "ffn_norm": (width,), **square}.items()
    }
    shapes = {
        "token_embd.weight": (width, len(words)),
        "output_norm.weight": (width,),
        "output.weight": (width, len(words)),
        **layer,
    }
    numbers, infos, data = random.Random(1), b"", b""
    for name, shape in shapes.items():
        count = width if len(shape) == 1 else width * shape[1]
        weights = [numbers.gauss(0, 1) for _ in range(count)]
        if name == "output.weight":
            weights = [
                weight if 32 <= index // width - 3 < 127 else 0.0 for index, weight in enumerate(weights)
            ]
        infos += _value(name)[1] + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += struct.pack(f"<{count}f", *weights)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys))
    for key, value in keys.items():
        kind, packed = _value(value)
        start += _value(key)[1] + struct.pack("<I", kind) + packed
    start += infos
    path.write_bytes(start + bytes(-len(start) % 32) + data)


def _value(value: Any) -> tuple[int, bytes]:
    """The type and the bytes of a value in GGUF."""
    match value:
        case str():
            return 8, struct.pack("<Q", len(value.encode())) + value.encode()
        case int():
            return 4, struct.pack("<I", value)
        case float():
            return 6, struct.pack("<f", value)
    kinds, parts = zip(*map(_value, value), strict=True)
    # Numbers in a list are signed.
    return 9, struct.pack("<IQ", {4: 5}.get(kinds[0], kinds[0]), len(parts)) + b"".join(parts)
