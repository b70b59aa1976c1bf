"""What happened to servers."""

from __future__ import annotations

from django.db import models

from accounts.models import Account


class What(models.TextChoices):
    """What can happen to a server: first what users order, then what came of it."""

    CREATE = "create", "Create"
    REBOOT = "reboot", "Reboot"
    REBOOT_HARD = "reboot_hard", "Hard reboot"
    POWER_OFF = "power_off", "Power off"
    POWER_ON = "power_on", "Power on"
    RENAME = "rename", "Rename"
    REBUILD = "rebuild", "Rebuild"
    RESIZE = "resize", "Resize"
    CREATE_IMAGE = "create_image", "Create Image"
    SCHEDULE_SET = "schedule_set", "Schedule Image"
    SCHEDULE_STOPPED = "schedule_stopped", "Scheduled images stopped"
    SCHEDULED_IMAGE = "scheduled_image", "Create Image by the schedule"
    DELETE = "delete", "Delete"
    STARTED = "started", "Running"
    PROMPT = "prompt", "Login prompt on the console"
    STOPPED = "stopped", "Shut off"
    REBUILT = "rebuilt", "The disk was made anew"
    RESIZED = "resized", "Resized"
    IMAGE_CREATED = "image_created", "Image created"
    IMAGE_FAILED = "image_failed", "No image was created"
    SCHEDULE_SKIPPED = "schedule_skipped", "The schedule made no image"
    OLD_IMAGE_DELETED = "old_image_deleted", "Old image deleted by the schedule"
    WITHDRAWN = "withdrawn", "The image is gone"
    GIVEN_BACK = "given_back", "The image may be used again"
    DETACHED = "detached", "The disk no longer needs the image"
    FAILED = "failed", "Failed"
    DELETED = "deleted", "Deleted"


class ServerEvent(models.Model):
    """What happened to a server; written once, never changed, and it outlives it."""

    server_id = models.UUIDField()
    server_name = models.CharField(max_length=255)
    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    what = models.CharField(max_length=20, choices=What)
    actor_name = models.CharField(max_length=150, blank=True)
    # Empty for the panel, else the way of the API, with the credential used.
    via = models.CharField(max_length=300, blank=True)
    note = models.CharField(max_length=500, blank=True)
    # The image that was, or was not, made of the server.
    image_id = models.UUIDField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            models.Index(fields=["account", "server_id", "id"], name="servers_event"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["image_id", "what"], name="servers_event_of_image_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.server_name}: {self.get_what_display()}"
