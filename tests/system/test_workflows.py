"""What only GitHub runs or shows: workflows, hooks before a commit, forms for issues, the citation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from nst_fast import __version__

GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
# Rights beyond reading, by workflow and job.
RIGHTS = {
    "release": {"publish": {"id-token": "write"}},
    "site": {"deploy": {"pages": "write", "id-token": "write"}},
    "tests": {},
}
TRIGGERS = {
    "release": {"push": {"tags": ["v*"]}},
    "site": {"push": {"branches": ["main"]}, "workflow_dispatch": None},
    "tests": {"push": {"branches": ["main"]}, "pull_request": None, "workflow_dispatch": None},
}


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


WORKFLOWS = {path.stem: parsed(path) for path in (GITHUB / "workflows").glob("*.yml")}


def commands(workflow: str, job: str) -> set[str]:
    steps = WORKFLOWS[workflow]["jobs"][job]["steps"]
    return {line.strip() for step in steps for line in step.get("run", "").splitlines()}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_few_rights_and_ends_and_runs_no_code_that_can_change(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow[True] == TRIGGERS[name]  # YAML 1.1 reads `on` as yes
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert {job: jobs[job]["permissions"] for job in jobs if "permissions" in jobs[job]} == RIGHTS[name]
    assert all(job["timeout-minutes"] <= 120 for job in jobs.values())
    used = {step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step}
    assert all(re.match(r"actions/|.*@[0-9a-f]{40}$", action) for action in used)
    assert "secrets." not in (GITHUB / "workflows" / f"{name}.yml").read_text("utf-8")


def test_the_readmes_test_command_is_run_on_every_system_and_what_ci_run_checks() -> None:
    matrix = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]
    assert "```sh\npytest\n```" in (ROOT / "README.md").read_text("utf-8")
    assert "pytest" in commands("tests", "tests")
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest = project()["project"]["requires-python"].removeprefix(">=")
    versions = [tuple(map(int, version.split("."))) for version in matrix["python"]]
    assert versions[0] == tuple(map(int, oldest.split("."))) < versions[-1]
    local = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    checks = {line for line in local if line.startswith(("ruff ", "mypy"))}
    assert len(checks) == 3
    assert checks <= commands("tests", "lint")


def test_the_gpu_job_is_skipped_without_a_runner_and_never_runs_code_of_forks() -> None:
    job = WORKFLOWS["tests"]["jobs"]["gpu"]
    assert "pytest -m gpu" in commands("tests", "gpu")
    assert any(marker.startswith("gpu:") for marker in project()["tool"]["pytest"]["ini_options"]["markers"])
    runner, _, trust = job["if"].partition(" && ")
    assert runner == "vars.GPU_RUNNER != ''"
    assert "head.repo.full_name == github.repository" in trust
    assert job["runs-on"] == ["self-hosted", "${{ vars.GPU_RUNNER }}"]


def test_a_release_waits_for_the_checks_that_are_run_here() -> None:
    publish = WORKFLOWS["release"]["jobs"]["publish"]
    assert publish["environment"]["name"] == "pypi"
    assert set(publish["needs"]) == WORKFLOWS["release"]["jobs"].keys() - {"publish"}
    checks = {"python -m build", "twine check --strict dist/*", "check-wheel-contents dist/*.whl"}
    assert checks <= commands("release", "build")


def test_the_site_is_built_with_the_documented_command() -> None:
    build = WORKFLOWS["site"]["jobs"]["build"]
    assert "python docs/site/make_site.py" in commands("site", "build")
    assert "    python docs/site/make_site.py\n" in (ROOT / "docs" / "site" / "README.md").read_text("utf-8")
    (upload,) = [step for step in build["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "build/docs/site"


def test_hooks_before_a_commit_run_the_programs_of_the_dev_extra() -> None:
    hooks = [hook for repo in parsed(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    own = [hook for hook in hooks if "entry" in hook]
    assert [hook["entry"].split(" --")[0] for hook in own] == ["ruff format", "ruff check", "mypy"]
    extras = project()["project"]["optional-dependencies"]
    assert "test" in extras["dev"][0]
    for hook in own:
        assert hook["language"] == "system"
        assert any(re.match(rf"{hook['entry'].split()[0]}\b", package) for package in extras["test"])


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms_have_what_github_needs(path: Path) -> None:
    form = parsed(path)
    assert all(form[key] for key in ("name", "description", "body"))
    questions = {item["id"]: item for item in form["body"] if item["type"] != "markdown"}
    assert {item["type"] for item in questions.values()} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert all(item["attributes"]["label"] for item in questions.values())
    required = {name for name, item in questions.items() if item.get("validations", {}).get("required")}
    assert required >= ({"command", "doctor"} if path.stem == "bug" else set()) and required
    if path.stem == "bug":
        assert "nst-fast doctor" in questions["doctor"]["attributes"]["label"]


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] == __version__
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Gatys", "Ecker", "Bethge"]
    assert (paper["year"], paper["doi"]) == (2016, "10.1109/CVPR.2016.265")


def community_files() -> list[Path]:
    named = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", ".pre-commit-config.yaml")]
    hidden = [path for path in GITHUB.rglob("*") if path.is_file()]
    examples = [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".ipynb", ".md")]
    return sorted([*named, *hidden, *examples])


@pytest.mark.parametrize("path", community_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_community_files_name_no_machine_and_no_address_and_their_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.}])/(root|home|work|tmp|Users)/", text)
    assert not re.search(r"[\w.]+@[\w-]+\.[a-z]", text)
    for target in re.findall(r"\]\(([^)#]+)\)", text) if path.suffix == ".md" else []:
        assert (path.parent / target).exists(), target
