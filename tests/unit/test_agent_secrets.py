"""Which secrets agents may have, how they are read, and that a file system that hangs holds up
nobody else.
"""

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

from server.agents import secrets as module
from server.agents.allowed import Endpoint
from server.agents.secrets import (
    MAX_READS_OF_A_RULE,
    MAX_SECRET_BYTES,
    SecretError,
    SecretNotAllowedError,
    Secrets,
)
from server.environment import SettingsError, load_settings
from tests.support.waiting import PATIENCE_SECONDS

HERE = Endpoint("agent.example", 443)


async def sign(secrets: Secrets, reference: str) -> str:
    """The secret, for signing."""
    return await secrets.read(reference, HERE, is_sent=False)


class TestSecrets:
    @pytest.fixture
    def vault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A directory of secrets, beside something that is none of the agents' business."""
        monkeypatch.setenv("AGENT_SECRET_X", " hunter2\n")
        monkeypatch.setenv("AGENT_SECRET_EMPTY", " \n")
        monkeypatch.setenv("DATABASE_PASSWORD", "none of theirs")
        (tmp_path / "vault").mkdir()
        (tmp_path / "vault" / "x").write_text("hunter3\n")
        (tmp_path / "private").write_text("none of theirs")
        return tmp_path / "vault"

    @pytest.fixture
    def secrets(self, vault: Path) -> Secrets:
        return Secrets(["AGENT_SECRET_*", f"{vault}/*"])

    async def test_a_secret_is_read_from_the_environment_or_a_file(
        self, secrets: Secrets, vault: Path
    ) -> None:
        assert await sign(secrets, "env:AGENT_SECRET_X") == "hunter2"
        assert await sign(secrets, f"file:{vault}/x") == "hunter3"

    async def test_it_is_read_anew_each_time(
        self, secrets: Secrets, vault: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await sign(secrets, "env:AGENT_SECRET_X"), await sign(secrets, f"file:{vault}/x")
        monkeypatch.setenv("AGENT_SECRET_X", "new2")
        (vault / "x").write_text("new3")
        assert (await sign(secrets, "env:AGENT_SECRET_X"), await sign(secrets, f"file:{vault}/x")) == (
            "new2",
            "new3",
        )

    @pytest.mark.parametrize(
        "reference",
        [
            *(
                "env:DATABASE_PASSWORD",
                "env:XAGENT_SECRET_X",
                "env:agent_secret_x",
                "env:PATH",
                "env:AGENT_SECRET",
                "file:{vault}",
                "env:",
            ),
            *(
                "file:{vault}/../private",
                "file:{vault}/x/../../private",
                "file:{vault}/./x",
                "file:{vault}//x",
                "file:/{vault}/x",
            ),
            *(
                "file:{vault}/../vault/x",
                "file:{vault}/x/",
                "file:/run/secrets/../../etc/passwd",
                "file:/etc/passwd",
                "file:/proc/self/environ",
            ),
        ],
    )
    async def test_a_secret_that_the_setting_does_not_name_is_refused(
        self, secrets: Secrets, vault: Path, reference: str
    ) -> None:
        with pytest.raises(SecretError, match="AGENT_SECRETS does not allow") as caught:
            await sign(secrets, reference.format(vault=vault))
        assert "none of theirs" not in str(caught.value)

    async def test_nothing_is_allowed_unless_named(self, vault: Path) -> None:
        for reference in ("env:AGENT_SECRET_X", f"file:{vault}/x"):
            with pytest.raises(SecretError):
                await sign(Secrets([]), reference)

    @pytest.mark.parametrize(
        "reference",
        ["env:AGENT_SECRET_ABSENT", "env:AGENT_SECRET_EMPTY", "file:{vault}/empty", "file:{vault}/blank"],
    )
    async def test_a_secret_that_is_not_set_or_empty_is_refused(
        self, secrets: Secrets, vault: Path, reference: str
    ) -> None:
        (vault / "empty").touch()
        (vault / "blank").write_text(" \t\n")
        with pytest.raises(SecretError, match="not set or empty"):
            await sign(secrets, reference.format(vault=vault))

    async def test_a_path_is_no_variable_and_a_variable_no_file(self, secrets: Secrets, vault: Path) -> None:
        with pytest.raises(SecretError, match="does not allow"):
            await sign(secrets, f"env:{vault}/x")

    async def test_a_secret_that_cannot_be_read_is_refused(self, secrets: Secrets, vault: Path) -> None:
        (vault / "directory").mkdir()
        (vault / "closed").write_text("hunter4")
        (vault / "closed").chmod(0)
        for name in ("absent", "directory", *(["closed"] if os.geteuid() else [])):
            with pytest.raises(SecretError, match="cannot be read") as caught:
                await sign(secrets, f"file:{vault}/{name}")
            assert f"{vault}/{name}" in str(caught.value)

    async def test_one_that_is_not_text_is_not_told(self, secrets: Secrets, vault: Path) -> None:
        (vault / "binary").write_bytes(b"hunter2\xff\xfe\0")
        with pytest.raises(SecretError, match="not text") as caught:
            await sign(secrets, f"file:{vault}/binary")
        assert "hunter2" not in str(caught.value)

    async def test_a_file_without_end_is_read_so_far(self, secrets: Secrets, vault: Path) -> None:
        (vault / "huge").write_text("x" * (MAX_SECRET_BYTES + 1))
        assert len(await sign(secrets, f"file:{vault}/huge")) == MAX_SECRET_BYTES


class TestRules:
    """What the entries of AGENT_SECRETS mean."""

    @pytest.mark.parametrize(
        ("entry", "reference", "endpoint", "signs", "sends"),
        [
            ("KEY", "env:KEY", HERE, True, False),
            ("env:KEY", "env:KEY", HERE, True, False),
            ("KEY@agent.example", "env:KEY", HERE, True, True),
            ("KEY@Agent.Example.", "env:KEY", HERE, True, True),
            ("KEY@agent.example", "env:KEY", Endpoint("agent.example", 8443), True, True),
            ("KEY@agent.example:443", "env:KEY", HERE, True, True),
            ("KEY@agent.example:443", "env:KEY", Endpoint("agent.example", 8443), False, False),
            ("KEY@agent.example", "env:KEY", Endpoint("x.agent.example", 443), False, False),
            ("KEY@agent.example", "env:KEY", Endpoint("agent.example.org", 443), False, False),
            ("KEY@*.example", "env:KEY", HERE, True, True),
            ("KEY@*.example", "env:KEY", Endpoint("a.b.example", 1), True, True),
            ("KEY@*.example", "env:KEY", Endpoint("example", 443), False, False),
            ("KEY@*.example", "env:KEY", Endpoint("agentexample", 443), False, False),
            ("KEY@*", "env:KEY", HERE, True, True),
            ("KEY@127.0.0.1", "env:KEY", Endpoint("127.0.0.1", 1), True, True),
            ("KEY@[::1]:8", "env:KEY", Endpoint("::1", 8), True, True),
            ("KEY_*", "env:KEY_A", HERE, True, False),
            ("KEY_?", "env:KEY_AB", HERE, False, False),
            ("KEY", "env:key", HERE, False, False),
            ("KEY", "file:/KEY", HERE, False, False),
            ("*", "env:x/y", HERE, False, False),
            ("*", "file:/x", HERE, False, False),
            ("/x/*", "file:/x/y", HERE, True, False),
            ("file:/x/*", "file:/x/y", HERE, True, False),
            ("file:/x/*@*.example", "file:/x/y", HERE, True, True),
            *(
                ("/x/*", f"file:{path}", HERE, False, False)
                for path in ("/x/y/z", "/x/..", "/x/./y", "/x//y", "//x/y", "/x", "/x/../x/y")
            ),
            ("/*/y", "file:/x/z/y", HERE, False, False),
            ("/x/**", "file:/x/y/z", HERE, False, False),
            ("/x/[!a]y", "file:/x//y", HERE, False, False),
        ],
    )
    def test_an_entry_allows_signing_and_sending_as_it_says(
        self, entry: str, reference: str, endpoint: Endpoint, signs: bool, sends: bool
    ) -> None:
        secrets = Secrets(["OTHER", entry])
        for is_sent, allowed in ((False, signs), (True, sends)):
            try:
                secrets.check(reference, endpoint, is_sent=is_sent)
            except SecretNotAllowedError:
                assert not allowed, is_sent
            else:
                assert allowed, is_sent

    def test_the_default_allows_the_documented_secrets(self) -> None:
        secrets = Secrets(load_settings(agent_secrets=None).agent_secrets.split(","))
        openai = Endpoint("api.openai.com", 443)
        secrets.check("env:OPENAI_API_KEY", openai, is_sent=True)
        secrets.check("env:AGENT_SECRET_X", HERE, is_sent=False)
        secrets.check("file:/run/secrets/x", HERE, is_sent=False)
        for reference, endpoint, is_sent in (
            ("env:OPENAI_API_KEY", HERE, True),
            ("env:OPENAI_API_KEY", HERE, False),
            ("env:AGENT_SECRET_X", openai, True),
            ("file:/run/secrets/x", openai, True),
            ("file:/run/secrets/kubernetes.io/serviceaccount/token", HERE, False),
            ("file:/var/run/secrets/x", HERE, False),
        ):
            with pytest.raises(SecretNotAllowedError):
                secrets.check(reference, endpoint, is_sent=is_sent)

    @pytest.mark.parametrize(
        ("reference", "endpoint", "entry"),
        [
            ("env:KEY", None, "add KEY to it"),
            ("env:KEY", HERE, "add KEY@agent.example:443 to it"),
            ("file:/x/y", Endpoint("::1", 8), "add file:/x/y@[::1]:8 to it"),
            # What would allow more, or something else.
            ("env:*", HERE, None),
            ("file:/x,y", None, None),
            ("file:/x@y", None, None),
            ("env:KEY", Endpoint("a.example,OTHER", 443), None),
        ],
    )
    def test_the_entry_that_is_missing_is_named_where_it_is_clear(
        self, reference: str, endpoint: Endpoint | None, entry: str | None
    ) -> None:
        kind, _, name = reference.partition(":")
        told = str(SecretNotAllowedError(kind, name, endpoint))
        assert told.endswith(f"; {entry}") if entry else "; " not in told

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            *(
                ("AGENT_SECRETS", value)
                for value in (
                    "x@",
                    "file:x",
                    "env:",
                    "@host",
                    "KEY@a*b",
                    "KEY@host:0",
                    "KEY@host:x",
                    "what:ever",
                )
            ),
            *(("AGENT_SECRETS", value) for value in ("env:/x", "KEY@http://host", "KEY@host/", "fine,file:")),
            *(
                ("AGENT_ALLOWED_HOSTS", value)
                for value in (
                    "host:0",
                    "host:65536",
                    "*",
                    "*.example.com",
                    "[::1",
                    "http://host",
                    "a b",
                    "::g",
                )
            ),
        ],
    )
    def test_an_entry_that_is_none_stops_the_start(
        self, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
    ) -> None:
        monkeypatch.setenv(setting, value)
        with pytest.raises(SettingsError, match=f"{setting} is .*: it must be (entries like|hosts by name)"):
            load_settings()


class TestLinks:
    """The real path is what counts."""

    @pytest.fixture
    def vault(self, tmp_path: Path) -> Path:
        (tmp_path / "vault").mkdir()
        (tmp_path / "vault" / "x").write_text("hunter2")
        (tmp_path / "private").write_text("none of theirs")
        (tmp_path / "link").symlink_to("vault")
        return tmp_path / "vault"

    async def test_a_link_out_of_the_directory_is_refused(self, vault: Path) -> None:
        (vault / "out").symlink_to(vault.parent / "private")
        (vault / "absent").symlink_to(vault.parent / "nothing")
        (vault / "loop").symlink_to(vault / "loop")
        for name in ("out", "absent"):
            with pytest.raises(SecretNotAllowedError) as caught:
                await sign(Secrets([f"{vault}/*"]), f"file:{vault}/{name}")
            assert (
                str(caught.value)
                == f"names {vault}/{name}, which AGENT_SECRETS does not allow; add file:{vault}/{name} to it"
            )
        with pytest.raises(SecretError):
            await sign(Secrets([f"{vault}/*"]), f"file:{vault}/loop")

    async def test_a_link_within_the_directory_is_followed(self, vault: Path) -> None:
        (vault / "in").symlink_to("x")
        assert await sign(Secrets([f"{vault}/*"]), f"file:{vault}/in") == "hunter2"

    async def test_a_directory_counts_by_the_name_that_the_setting_has(self, vault: Path) -> None:
        """As /var/run is a link to /run."""
        link = vault.parent / "link"
        assert await sign(Secrets([f"{link}/*"]), f"file:{link}/x") == "hunter2"
        for allowed, named in ((link, vault), (vault, link)):
            with pytest.raises(SecretNotAllowedError):
                await sign(Secrets([f"{allowed}/*"]), f"file:{named}/x")

    async def test_a_file_that_the_operator_named_may_be_a_link(self, vault: Path) -> None:
        (vault / "out").symlink_to(vault.parent / "private")
        assert await sign(Secrets([f"{vault}/out"]), f"file:{vault}/out") == "none of theirs"

    async def test_a_wildcard_for_directories_follows_no_link_out_of_them(self, vault: Path) -> None:
        (vault / "sub").symlink_to(vault.parent)
        with pytest.raises(SecretNotAllowedError):
            await sign(Secrets([f"{vault}/*/*"]), f"file:{vault}/sub/private")


class TestWhatHangs:
    """A FIFO, a device, a file system."""

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    async def test_a_pipe_or_a_directory_is_refused(self, tmp_path: Path, make: object) -> None:
        make(tmp_path / "x")  # type: ignore[operator]
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(SecretError, match="no regular file"):
                await sign(Secrets([f"{tmp_path}/*"]), f"file:{tmp_path}/x")
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
    async def test_a_device_is_refused(self, device: str) -> None:
        with pytest.raises(SecretError, match="no regular file"):
            await sign(Secrets([device]), f"file:{device}")

    async def test_a_read_that_hangs_holds_up_only_those_who_want_that_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        goes_on, opened = threading.Event(), []
        read = module._read_file

        def hang(name: str, patterns: tuple[str, ...]) -> str:
            if "hung" in name:
                opened.append(name)
                assert goes_on.wait(PATIENCE_SECONDS)
            return read(name, patterns)

        monkeypatch.setattr(module, "_read_file", hang)
        for directory in ("hung", "fine"):
            (tmp_path / directory).mkdir()
            for index in range(50):
                (tmp_path / directory / str(index)).write_text(f"{directory}{index}")
        secrets = Secrets([f"{tmp_path}/hung/*", f"{tmp_path}/fine/*"])
        try:
            same = [asyncio.create_task(sign(secrets, f"file:{tmp_path}/hung/0")) for _ in range(100)]
            others = [
                asyncio.create_task(sign(secrets, f"file:{tmp_path}/hung/{index}")) for index in range(1, 50)
            ]
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(opened) < MAX_READS_OF_A_RULE:  # noqa: ASYNC110 - threads do it
                    await asyncio.sleep(0.001)
                for index in range(50):
                    assert await sign(secrets, f"file:{tmp_path}/fine/{index}") == f"fine{index}"
            assert not any(task.done() for task in (*same, *others))
            # One read for each file, and the rest has not begun.
            assert sorted(opened) == [f"{tmp_path}/hung/{index}" for index in range(MAX_READS_OF_A_RULE)]
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        finally:
            goes_on.set()
        assert set(await asyncio.gather(*same)) == {"hung0"}
        # Nobody waits for those any more, and so they were never read.
        assert len(opened) == MAX_READS_OF_A_RULE
        # The other reads that hung end by themselves, now that they go on.
        async with asyncio.timeout(60):
            while secrets.open_reads:  # noqa: ASYNC110 - threads end them
                await asyncio.sleep(0.001)

    async def test_whoever_waits_for_a_read_waits_so_long_and_no_longer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        goes_on = threading.Event()

        def hang(name: str, patterns: tuple[str, ...]) -> str:
            goes_on.wait(PATIENCE_SECONDS)
            return "late"

        monkeypatch.setattr(module, "_read_file", hang)
        monkeypatch.setattr(module, "READ_SECONDS", 0.01)
        secrets = Secrets([f"{tmp_path}/*"])
        try:
            for _ in range(3):
                with pytest.raises(SecretError, match="cannot be read in time"):
                    await sign(secrets, f"file:{tmp_path}/x")
            assert secrets.open_reads == 1
        finally:
            goes_on.set()

    async def test_a_refusal_leaves_no_garbage(self, tmp_path: Path) -> None:
        """Errors lead to frames; a frame that leads back to its error waits for the collector, and keeps all
        that it refers to.
        """
        secrets = Secrets([f"{tmp_path}/*"])
        references = [f"file:{tmp_path}/absent", f"file:{tmp_path}/link", "env:PATH"]
        (tmp_path / "link").symlink_to("/nothing")

        async def refuse() -> None:
            for reference in references:
                with pytest.raises(SecretError):
                    await sign(secrets, reference)

        await refuse()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await refuse()
            gc.collect()
            found = [one for one in gc.garbage if isinstance(one, BaseException)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert found == []
