from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from servers.watching import stop_all


class Command(BaseCommand):
    help = "Shut off all running servers, because their region is about to stop."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--patience",
            type=float,
            default=4,
            help="Seconds for a server to shut down in order, before it is forced.",
        )

    def handle(self, *args: Any, patience: float, **options: Any) -> None:
        stopped = stop_all(patience=patience)
        self.stdout.write(f"Shut off {stopped} servers.")
