"""Programs that show how shmq is used; see README.md."""
