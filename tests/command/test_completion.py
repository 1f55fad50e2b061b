from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kshot.__main__ import main

SCRIPT = "from kshot.__main__ import main; main([])"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0

    assert f"_KSHOT_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_the_script_comes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["shell"] == "fish"


def test_a_shell_is_told_the_commands() -> None:
    """As the script asks it: by the environment, in a process of its own."""
    asked = {"_KSHOT_COMPLETE": "bash_complete", "COMP_WORDS": "kshot comp", "COMP_CWORD": "1"}

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | asked, capture_output=True, text=True
    )

    assert done.stdout == "plain,completion\n"
