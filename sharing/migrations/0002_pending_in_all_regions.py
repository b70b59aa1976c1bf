from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sharing", "0001_initial"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="imageshare",
            index=models.Index(
                condition=models.Q(("status", "pending")),
                fields=["consumer", "created_at", "id"],
                name="sharing_pending_all",
            ),
        ),
    ]
