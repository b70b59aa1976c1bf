"""The regions once more, for the page of the admin that shows what is left there."""

from accounts.models import Region


class RegionCapacity(Region):
    class Meta:
        proxy = True
        verbose_name = "capacity of a region"
        verbose_name_plural = "capacity"
