"""A page in Chromium calls gRPC through the Envoy sample, by Connect and by gRPC-Web."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.service.deploy.test_envoy import PAGE, PATH, envoy, placed
from tests.service.typescript_client.files import Files
from tests.support import node
from tests.support.realtime.browser import browser
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until

pytestmark = pytest.mark.deploy("envoy")

CALLS: Final = Path(__file__).with_name("calls.html")
HOST: Final = "app.example"
"""Where the page comes from; the browser finds it on this machine."""
PAGE_SECONDS: Final = 90
"""How long the browser may take for its start and all calls."""
ENDS: Final = ("end", "error")
PACKAGES: Final = ("@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web")


def imports(modules: Path, url: str) -> dict[str, str]:
    """An import map for these packages, by what they export to modules."""

    def resolve(target: Any) -> str | None:
        while isinstance(target, dict):
            target = target.get("browser") or target.get("import") or target.get("default")
        return target

    found = {}
    for package in PACKAGES:
        exports = json.loads((modules / package / "package.json").read_text())["exports"]
        for name, target in exports.items():
            if path := resolve(target):
                found[f"{package}{name.removeprefix('.')}"] = f"{url}/{package}/{path.removeprefix('./')}"
    return found


def descriptors() -> bytes:
    """The descriptors of the services' files, each after those that it imports."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for imported in file.dependencies:
            add(imported)
        found.setdefault(file.name, file)

    add(session_service_pb2.DESCRIPTOR)
    add(message_service_pb2.DESCRIPTOR)
    together = FileDescriptorSet()
    for file in found.values():
        described = together.file.add()
        file.CopyToProto(described)
        name_fields(described.message_type)
    return together.SerializeToString()


def name_fields(messages: Iterable[DescriptorProto]) -> None:
    """Gives the fields the names that they have in JSON: protoc does, Python's descriptors lack them."""
    for message in messages:
        for field in message.field:
            first, *others = field.name.split("_")
            field.json_name = first + "".join(map(str.capitalize, others))
        name_fields(message.nested_type)


def test_a_page_calls_by_connect_and_by_grpc_web(plain: Serve, tmp_path: Path) -> None:
    address = free_address()
    sample = placed(PATH.read_text(), address, plain.rest, plain.rest, plain.grpc)
    allowed = f"- exact: {PAGE}"
    assert sample.count(allowed) == 1
    # The port of the page is not known before it is there.
    sample = sample.replace(allowed, f'- safe_regex: {{ regex: "http://{HOST}:[0-9]+" }}')
    modules = node.install()
    with envoy(sample, address, tmp_path), Files(modules) as files:
        page = CALLS.read_text()
        for name, value in {
            "IMPORTS": json.dumps({"imports": imports(modules, files.url)}),
            "DESCRIPTORS": base64.b64encode(descriptors()).decode(),
            "AGENT": ECHO,
            "USER": USER,
            "URL": f"http://{address}",
        }.items():
            assert name in page
            page = page.replace(name, value)
        with browser(page, tmp_path / "profile", HOST) as recorder:
            until(
                lambda: any(one["name"] in ENDS for one in recorder.records()),
                "the end of the page's calls",
                PAGE_SECONDS,
            )
            *told, last = recorder.records()
    assert last == {"name": "end"}
    assert [one.pop("name") for one in told] == ["connect", "grpcWeb"]
    for one in told:
        assert "failed" not in one, one
        replies = [part["reply"]["content"] for part in one["conversed"] if "reply" in part]
        assert replies == ["one"]
        assert one["watched"] == ["one", "one", "two", "two", "three", "three"]
        assert one["code"] == "NotFound"
        assert any(detail.endswith("google.rpc.ErrorInfo") for detail in one["details"])
