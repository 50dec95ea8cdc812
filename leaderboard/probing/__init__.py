"""The page of `medbench probe`: where models lose what a picture shows, in figures, tables and words."""
