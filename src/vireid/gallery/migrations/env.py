"""What Alembic runs: the migrations, on the connection that the gallery hands over."""

from alembic import context

from vireid.gallery.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
