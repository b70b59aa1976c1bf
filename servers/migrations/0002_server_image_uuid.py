import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("servers", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="server",
            name="image_uuid",
            field=models.UUIDField(default=uuid.uuid4, editable=False),
            preserve_default=False,
        ),
    ]
