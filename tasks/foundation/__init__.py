"""What every room stands on: errors, the console, files and registries. Imports nothing of the project."""
