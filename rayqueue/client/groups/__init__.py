"""Consumer groups, as a consumer takes part in them: the member's machine (pure), its thread, commits."""
