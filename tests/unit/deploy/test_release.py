"""`make release`: nothing unsigned, nothing that no commit holds, and what was changed afterwards is found."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RELEASE = Path(__file__).resolve().parents[3] / "scripts" / "release"
IMAGE = "example/ratchet@sha256:" + "a" * 64
pytestmark = pytest.mark.skipif(not shutil.which("minisign"), reason="minisign is not here")


class Checkout:
    """A project of one file, with a stand-in for the builder; its key was made without a password."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder / "project", folder / "ratchet.key"
        (self.folder / "scripts").mkdir(parents=True)
        shutil.copy(RELEASE, self.folder / "scripts")
        (self.folder / "pyproject.toml").write_text('[project]\nname = "ratchet"\nversion = "1.2.0"\n')
        (self.folder / ".gitignore").write_text("dist/\n")
        tools = folder / "bin"
        tools.mkdir()
        uv = tools / "uv"
        uv.write_text(
            '#!/bin/sh\nmkdir "$4"; echo "$SOURCE_DATE_EPOCH" > "$4/ratchet-1.2.0.whl"; echo s > "$4/r.tar.gz"\n'
        )
        uv.chmod(0o755)
        self.path = f"{tools}:{os.environ['PATH']}"
        subprocess.run(
            ["minisign", "-G", "-W", "-s", self.key, "-p", f"{self.key}.pub"], check=True, capture_output=True
        )
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "all of it")

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=self.folder, check=True, capture_output=True)

    def tag(self, name: str = "v1.2.0") -> None:
        self.git("tag", "--annotate", name, "--message", name)

    def release(self, **variables: str) -> subprocess.CompletedProcess[str]:
        told = os.environ | {"PATH": self.path, "MINISIGN_KEY": str(self.key)} | variables
        return subprocess.run(
            ["scripts/release"], cwd=self.folder, env=told, capture_output=True, text=True, check=False
        )

    def is_sound(self) -> bool:
        signed = subprocess.run(
            ["minisign", "-V", "-p", f"{self.key}.pub", "-m", "SHA256SUMS"],
            cwd=self.folder / "dist",
            capture_output=True,
            check=False,
        )
        summed = subprocess.run(
            ["sha256sum", "--check", "SHA256SUMS"], cwd=self.folder / "dist", capture_output=True, check=False
        )
        return signed.returncode == summed.returncode == 0


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_release_is_signed_over_all_of_it_and_dated_by_its_commit(checkout):
    checkout.tag()
    done = checkout.release(IMAGE=IMAGE)
    assert done.returncode == 0, done.stderr
    dist = checkout.folder / "dist"
    files = {"IMAGE", "SHA256SUMS", "SHA256SUMS.minisig", "r.tar.gz", "ratchet-1.2.0.whl"}
    assert {file.name for file in dist.iterdir()} == files
    assert (dist / "ratchet-1.2.0.whl").read_text().strip().isdigit()
    assert (dist / "IMAGE").read_text().strip() == IMAGE
    assert "trusted comment: ratchet 1.2.0 " in (dist / "SHA256SUMS.minisig").read_text()
    assert checkout.is_sound()


@pytest.mark.parametrize("name", ["ratchet-1.2.0.whl", "IMAGE", "SHA256SUMS"])
def test_what_was_changed_afterwards_is_found(checkout, name):
    checkout.tag()
    assert checkout.release(IMAGE=IMAGE).returncode == 0
    with (checkout.folder / "dist" / name).open("a") as file:
        file.write("more\n")
    assert not checkout.is_sound()


def test_what_cannot_be_a_release_is_refused_with_the_reason(checkout):
    assert "this commit is not version 1.2.0. Run: git tag --annotate v1.2.0" in checkout.release().stderr
    checkout.tag("v1.1.0")
    assert "this commit is not version 1.2.0" in checkout.release().stderr
    checkout.tag()
    assert "MINISIGN_KEY must name the secret key" in checkout.release(MINISIGN_KEY="/none").stderr
    assert "IMAGE must be named by its digest" in checkout.release(IMAGE="ratchet:latest").stderr
    (checkout.folder / "new.py").write_text("")
    assert "changes that no commit holds" in checkout.release().stderr
    assert not (checkout.folder / "dist").exists()
