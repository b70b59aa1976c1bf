from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from controlpanel import worker


class Command(BaseCommand):
    help = "Do the jobs that wait, until SIGTERM. What is left, the next one does."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--grace",
            type=float,
            default=30,
            help="Seconds that jobs have to end after SIGTERM (default: 30).",
        )

    def handle(self, *, grace: float, **options: Any) -> None:
        worker.run(grace=grace)
