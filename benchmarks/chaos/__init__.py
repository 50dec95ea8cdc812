"""`make chaos`: commands that are killed at every system call, and whose every call fails, must end well."""
