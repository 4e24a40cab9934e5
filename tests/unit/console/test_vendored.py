"""What others wrote is what they published, and there is nothing else."""

import hashlib
import tomllib
from pathlib import Path

import rest_facade.console

STATIC = Path(rest_facade.console.__file__).parent / "static"
VENDOR = STATIC / "vendor"
PACKAGES = tomllib.loads((VENDOR / "vendored.toml").read_text())["package"]


def test_each_file_has_the_hash_that_is_noted_and_none_is_unnoted() -> None:
    noted = {
        f"{package['directory']}/{name}": digest
        for package in PACKAGES
        for name, digest in package["sha256"].items()
    }
    found = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "vendored.toml"
    }
    assert found == noted


def test_each_package_says_what_it_is_and_comes_with_its_licence() -> None:
    assert {package["name"] for package in PACKAGES} == {"htmx.org", "uplot", "swagger-ui-dist"}
    for package in PACKAGES:
        assert package.keys() == {"name", "version", "licence", "source", "directory", "sha256"}
        assert package["licence"] in ("0BSD", "MIT", "Apache-2.0")
        assert package["source"].startswith("https://")
        assert (VENDOR / package["directory"] / "LICENSE").stat().st_size > 500
        # Minified files name their version.
        version = package["version"].encode()
        scripts = [path.read_bytes() for path in (VENDOR / package["directory"]).glob("*.js")]
        assert any(version in script for script in scripts), package["name"]


def test_our_own_files_are_short_narrow_and_name_no_other_host() -> None:
    own = [
        path for path in STATIC.rglob("*") if path.suffix in (".js", ".css") and VENDOR not in path.parents
    ]
    assert len(own) >= 9
    for path in own:
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, path
        assert [line for line in lines if len(line) > 130] == [], path
        assert "://" not in path.read_text(), path
