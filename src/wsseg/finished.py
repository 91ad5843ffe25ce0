"""What a run ended with, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsseg.errors import MAX_PROBLEMS_SHOWN
from wsseg.rundir import RunDir


@dataclass(frozen=True)
class Finished:
    """What a run ended with.

    Args:
        run: The run's folder.
        metrics: Content of ``metrics.json``, or an empty dictionary.
        failures: ``{image id or file: reason}`` of what could not be done.
        next_command: What to type next.
    """

    run: RunDir
    metrics: dict[str, Any]
    failures: dict[str, str]
    next_command: str = ""

    def text(self) -> str:
        """Say what came out, where it lies, and what to try next."""
        from wsseg.evaluate.table import stages_text

        lines = []
        if self.metrics.get("stages"):
            lines.append(stages_text(self.metrics))
        if self.failures:
            lines.append(f"{len(self.failures)} failed; the reasons:")
            lines += [f"  - {why}" for why in list(self.failures.values())[:MAX_PROBLEMS_SHOWN]]
            hidden = len(self.failures) - MAX_PROBLEMS_SHOWN
            if hidden > 0:
                lines.append(f"  ... and {hidden} more")
        places = (
            ("Masks:  ", self.run.path / "masks"),
            ("Model:  ", self.run.path / "segment" / "model"),
            ("Report: ", self.run.report_path),
        )
        lines += [f"{name}{path}" for name, path in places if path.exists()]
        if self.next_command:
            lines.append(f"Next:   {self.next_command}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Say the same for machines."""
        return {
            "run": str(self.run.path),
            "masks": str(self.run.path / "masks"),
            "report": str(self.run.report_path),
            "metrics": self.metrics,
            "failures": self.failures,
            "next": self.next_command,
        }
