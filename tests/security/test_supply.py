"""What is installed: pinned, hashed, audited; and an audit that asked nobody is no success."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_HASH = {"torch"}  # its builds differ from machine to machine


@pytest.fixture(scope="module")
def audit():
    """The program of `make audit`."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pinned(file: str) -> dict[str, str]:
    """Normalised name to release."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): release for name, release in found}


def test_the_lock_is_of_the_releases_that_tests_run_with():
    wanted = pinned("constraints.txt")
    assert len(wanted) > 100
    for name in WITHOUT_HASH:
        del wanted[name]
    assert pinned("requirements.lock") == wanted, "run: make lock"


def test_every_release_of_the_lock_has_hashes_and_nothing_else_is_in_it():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    assert len(entries) == len(pinned("requirements.lock"))
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.+!-]+( +--hash=sha256:[0-9a-f]{64})+ *", entry), entry


def row(name: str, *ids: str, aliases: tuple[str, ...] = ()) -> dict:
    vulnerable = [{"id": i, "aliases": list(aliases), "fix_versions": ["2.0"]} for i in ids]
    return {"name": name, "version": "1.0", "vulns": vulnerable}


def judged(audit, *rows: dict, reasons: dict[str, str] | None = None) -> tuple[int, str]:
    code, said = audit.judge(json.dumps({"dependencies": rows}), "", reasons or {})
    return code, "\n".join(said)


def test_a_vulnerability_fails_the_build_unless_a_reason_is_given(audit):
    assert judged(audit, row("a"), row("b")) == (
        0, "2 of 2 releases audited, 0 vulnerabilities open",
    )  # fmt: skip
    code, said = judged(audit, row("a"), row("b", "PYSEC-1", aliases=("CVE-1",)))
    assert code == 1
    assert "b 1.0: PYSEC-1, fixed in 2.0" in said
    for name in ("PYSEC-1", "CVE-1"):
        reasons = {name: "never called"}
        code, said = judged(audit, row("b", "PYSEC-1", aliases=("CVE-1",)), reasons=reasons)
        assert code == 0
        assert "accepted: never called" in said
    _, said = judged(audit, row("a"), reasons={"PYSEC-1": "never called"})
    assert "not found any more: drop it" in said


def test_an_audit_that_asked_nobody_says_so(audit):
    skipped = {"name": "a", "skip_reason": "not found on PyPI"}
    code, said = judged(audit, skipped, skipped)
    assert (code, said) == (0, "audit skipped: the service knows none of 2 releases")
    _, said = judged(audit, skipped, row("b"))
    assert "not audited, as the service does not know them: a" in said
    code, (said,) = audit.judge("", "ERROR: requests.ConnectionError: no route", {})
    assert code == 0
    assert said.startswith("audit skipped: the service of advisories cannot be reached")
    code, (said,) = audit.judge("", "No module named pip_audit", {})
    assert code == 1
    assert "No module named pip_audit" in said


def test_what_is_accepted_has_a_reason(audit):
    assert audit.accepted("# a comment\n\nCVE-1 not called here\n") == {"CVE-1": "not called here"}
    with pytest.raises(ValueError, match="CVE-1 has no reason"):
        audit.accepted("CVE-1\n")
    audit.accepted(audit.ACCEPTED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_promises_name_tests_that_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 15
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file}::{test}"
