"""Makes the Python stubs beside the .proto files.

`--check` writes nothing, and fails where the committed ones differ.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(out: Path) -> None:
    """Runs protoc over every .proto file, with `out` as the root of what it writes."""
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    programs = Path(sys.executable).parent
    names = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    plugins = [f"--plugin={name}={programs / name}" for name in names]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *plugins, *outputs, *protos],
        cwd=ROOT,
        check=True,
    )
    for path in stubs(out):
        if path.name.endswith(("_pb2_grpc.py", "_pb2_grpc.pyi")) and not has_service(path, out):
            path.unlink()


def has_service(stub: Path, out: Path) -> bool:
    """Whether the .proto file of a gRPC stub declares a service.

    Where it does not, protoc writes an empty stub.
    """
    proto = ROOT / stub.relative_to(out).with_name(stub.name.split("_pb2_grpc")[0] + ".proto")
    return any(line.startswith("service ") for line in proto.read_text().splitlines())


def stubs(root: Path) -> list[Path]:
    """The generated files below a root."""
    return sorted(path for path in root.rglob("*_pb2*") if path.name.endswith(SUFFIXES))


def main() -> int:
    """Generates, or with --check compares; the exit status is 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        made = {path.relative_to(fresh) for path in stubs(fresh)}
        kept = {path.relative_to(ROOT) for path in stubs(ROOT)}
        _, changed, missing = filecmp.cmpfiles(fresh, ROOT, map(str, made | kept), shallow=False)
        differing = sorted(changed + missing)
        if check:
            for path in differing:
                print(f"protos/{path} is not what the protos give: run python protos/generate.py")
            return 1 if differing else 0
        for path in kept - made:
            (ROOT / path).unlink()
        for path in made:
            shutil.copyfile(fresh / path, ROOT / path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
