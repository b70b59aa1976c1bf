from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.models import Region
from images.base_images import add_base_image
from images.stores import StoreError


class Command(BaseCommand):
    help = "Check a disk image and offer it to every account as a base image."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--name", required=True)
        parser.add_argument("--os", default="")
        parser.add_argument("--description", default="")
        parser.add_argument("--region", required=True, help="a code, or: all")
        parser.add_argument("--min-ram", type=int, default=0, metavar="MB")
        parser.add_argument("--min-disk", type=int, default=0, metavar="GB")

    def handle(self, *args: Any, **given: Any) -> None:
        regions = Region.objects.all()
        if given["region"] != "all":
            regions = regions.filter(code=given["region"])
        if not regions:
            raise CommandError(f"There is no region {given['region']}.")
        if not given["file"].is_file():
            raise CommandError(f"There is no file {given['file']}.")
        try:
            images = add_base_image(
                given["file"],
                given["name"],
                regions,
                os=given["os"],
                description=given["description"],
                min_ram_mb=given["min_ram"],
                min_disk_gb=given["min_disk"],
            )
        except StoreError as problem:
            raise CommandError(str(problem)) from problem
        for image in images:
            self.stdout.write(f"{image.pk}  {image.region_id}  {image}")
