"""What an export writes beside ``shape.json`` for one production trainer: a module a trainer."""
