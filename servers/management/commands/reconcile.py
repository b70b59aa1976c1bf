import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand

from images.reconciling import ORPHANED_AFTER
from servers.reconciling import Outcome, find, repair


class Command(BaseCommand):
    help = (
        "Compare the database with files and processes. Without --repair nothing is "
        "changed. The exit status is 1 if something was found, and is left."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--repair",
            action="store_true",
            help="Bring both together, also where that deletes files without a row.",
        )
        parser.add_argument(
            "--deep", action="store_true", help="Read all image data again, too."
        )
        parser.add_argument("--json", action="store_true", help="Print a JSON list.")
        parser.add_argument(
            "--older-than",
            type=float,
            metavar="MINUTES",
            default=ORPHANED_AFTER / timedelta(minutes=1),
            help="Leave younger files alone, since they may be about to get their row. "
            "A day; less is safe only while nobody uploads.",
        )

    def handle(self, *args: Any, older_than: float, **options: Any) -> None:
        age, deep = timedelta(minutes=older_than), options["deep"]
        if options["repair"]:
            outcomes = repair(older_than=age, with_consent=True, deep=deep)
        else:
            found = find(older_than=age, deep=deep)
            outcomes = [Outcome(finding, is_left=True) for finding in found]
        if options["json"]:
            rows = [outcome.as_dict() for outcome in outcomes]
            self.stdout.write(json.dumps(rows, indent=2))
        else:
            self._tell(outcomes)
        if any(outcome.is_left for outcome in outcomes):
            raise SystemExit(1)

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            finding = outcome.finding
            became = "found" if outcome.is_left else "mended"
            self.stdout.write(f"{became}: {finding.kind} {finding.subject}")
            self.stdout.write(f"    {finding.sentence}")
        left = sum(outcome.is_left for outcome in outcomes)
        if not outcomes:
            self.stdout.write("Database, files and processes agree.")
        elif left:
            self.stdout.write(f"{left} of {len(outcomes)} are left.")
        else:
            self.stdout.write("All of it is mended.")
