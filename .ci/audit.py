"""Known vulnerabilities of what constraints.txt pins, by pip-audit: `make audit`.

The build fails where a release is vulnerable and .ci/accepted-vulnerabilities.txt does not give a
reason to live with it. Where the service cannot be asked, or knows none of the releases, nothing
was audited: that is said, and is no success.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = ROOT / ".ci" / "accepted-vulnerabilities.txt"
UNREACHABLE = ("Connection", "Timeout", "timed out", "Temporary failure", "Max retries")


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    # every release is pinned: nothing is resolved, downloaded or installed
    pinned = ["--requirement", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, *pinned], capture_output=True, text=True, check=False)
    code, said = judge(done.stdout, done.stderr, accepted(ACCEPTED.read_text(encoding="utf-8")))
    print("\n".join(said))
    return code


def accepted(text: str) -> dict[str, str]:
    """Id of a vulnerability to the reason why it does no harm here; `#` begins a comment.

    Raises:
        ValueError: an id without a reason.
    """
    reasons = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise ValueError(f"{ACCEPTED.name}: {name} has no reason; give one behind it")
        reasons[name] = reason.strip()
    return reasons


def judge(report: str, errors: str, reasons: dict[str, str]) -> tuple[int, list[str]]:
    """Exit code, and what there is to say of pip-audit's JSON.

    Args:
        report: its standard output; empty where it failed.
        errors: its standard error.
        reasons: of `accepted`.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except ValueError:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        if any(sign in errors for sign in UNREACHABLE):
            return 0, [f"audit skipped: the service of advisories cannot be reached ({last})"]
        return 1, [f"audit failed: {last}"]
    audited = [row for row in rows if "skip_reason" not in row]
    if not audited:
        return 0, [f"audit skipped: the service knows none of {len(rows)} releases"]
    said, open_ones, seen = [], 0, set()
    for row in audited:
        for found in row["vulns"]:
            names = {found["id"], *found.get("aliases", [])}
            known = names & reasons.keys()
            seen |= known
            open_ones += not known
            fixed = ", ".join(found["fix_versions"]) or "no release"
            why = f"accepted: {reasons[min(known)]}" if known else f"fixed in {fixed}"
            said.append(f"{row['name']} {row['version']}: {found['id']}, {why}")
    said += [
        f"{name} is accepted, but not found any more: drop it"
        for name in reasons
        if name not in seen
    ]
    unknown = [row["name"] for row in rows if "skip_reason" in row]
    said += [f"not audited, as the service does not know them: {', '.join(unknown)}"] * bool(
        unknown
    )
    said.append(f"{len(audited)} of {len(rows)} releases audited, {open_ones} vulnerabilities open")
    return int(open_ones > 0), said


if __name__ == "__main__":
    sys.exit(main())
