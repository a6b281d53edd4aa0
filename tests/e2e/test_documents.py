"""The commands of the README and of the runbook, run as they are written; only places are replaced."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Lab
from lab import oracle, secrets
from lab.eyrie import Eyrie
from test_tls import fill

README = (REPOSITORY / "README.md").read_text()
RUNBOOK = (REPOSITORY / "docs" / "restore.md").read_text()


def commands(page: str, heading: str) -> str:
    """The shell commands of a section."""
    section = re.split(r"^## ", page.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks, f"{heading} has no commands"
    return "".join(blocks)


def shell(script: str, directory: Path, binary: Path) -> str:
    """Runs commands as a reader types them, up to the first that fails."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "eyrie").unlink(missing_ok=True)
    (programs / "eyrie").symlink_to(binary)
    config = directory / "etc" / "eyrie.yaml"
    environment = {
        **Eyrie(binary, config).env(),
        "PATH": f"{programs}:{Eyrie(binary, config).env()['PATH']}",
        "EYRIE_CONFIG": str(config),
        "EYRIE_LOG": "warn",
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-x", "-c", script], env=environment, text=True, capture_output=True, timeout=900
    )
    said = run.stdout + run.stderr
    secrets.refuse("what the commands print", said.encode())
    assert run.returncode == 0, f"{script}\nended with {run.returncode}\n{said}"
    return said


def test_the_first_real_backup_and_the_runbook_run_as_they_are_written(
    fresh: Callable[..., Lab], binary: Path
) -> None:
    lab = fresh("local")
    instance = lab.instance
    instance.start()
    fill(lab)
    before = lab.view()
    directory = instance.directory
    (directory / "etc").mkdir()
    script = commands(README, "A first real backup")
    replaced = {
        # The program is built already.
        "cargo install --locked --path .\n": "",
        "/etc/eyrie": str(directory / "etc"),
        "/srv/milvus/configs/milvus.yaml": str(instance.milvus_yaml),
        "/backup/milvus": str(directory / "repositories" / "primary"),
        # METRICS_PORT is no setting of milvus.yaml.
        "\nrepositories:\n": f"\n  milvus_env_file: {instance.milvus_env}\nrepositories:\n",
    }
    for written, here in replaced.items():
        assert written in script, f"the README does not say {written!r} any more"
        script = script.replace(written, here)
    said = shell(script, directory, binary)
    assert "1 snapshot" in said and "would" in said

    said = shell(commands(RUNBOOK, "1. What is there"), directory, binary)
    assert "default" in said
    instance.milvus.stop()
    instance.wipe()
    instance.start_backing()
    shell(commands(RUNBOOK, "3. Plan, then do"), directory, binary)
    [held] = re.findall(r"`etcdctl del ROOT/(\S+)`", RUNBOOK)
    assert instance.etcd.get(f"{instance.root_path}/{held}") == b"false"
    instance.start_milvus()
    subprocess.run(["curl", "-fsS", f"{instance.milvus.management_url}/healthz"], check=True, capture_output=True)
    assert oracle.compare(before, lab.view()) == []
    instance.etcd.delete(f"{instance.root_path}/{held}")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))])
def test_every_command_that_a_page_shows_is_one_that_eyrie_has(page: str, binary: Path) -> None:
    text = (REPOSITORY / page).read_text()
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    shown = re.findall(r"^(eyrie [a-z].*?)(?: {2,}#.*)?$", blocks, re.MULTILINE)
    shown += re.findall(r"`(eyrie [a-z][^`]*)`", text)
    for command in shown:
        words = re.split(r" [>|] ", command)[0].split()[1:]
        verbs = [word for word in words if re.fullmatch(r"[a-z]+", word)][:2]
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        known: set[str] = set()
        for verb in (verbs[:1], verbs):
            help = subprocess.run([binary, *verb, "--help"], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
            known |= set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", help.stdout, re.MULTILINE))
            if verb == verbs[:1]:
                assert help.returncode == 0, f"{page}: {command}: {help.stderr}"
        assert options <= known, f"{page}: {command}: {options - known}"
